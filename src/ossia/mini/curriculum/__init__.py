"""Texts and conversations made by code, for ossia-mini's training."""
