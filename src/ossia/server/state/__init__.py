"""Stored responses and conversations: one SQLite file, and encrypted reasoning."""
