"""Request bodies: their limits, JSON and its shape."""
