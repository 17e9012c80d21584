"""Adapters in PEFT's format, and merging them."""
