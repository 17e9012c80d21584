"""Finds an answer in a final text: an option's letter, a number, a mathematical expression."""
