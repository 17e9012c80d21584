"""The output of a response: items while they are written, and stream events."""
