"""Evals: how good a model is, measured through the same engine and loop that answer users."""
