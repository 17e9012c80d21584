"""The network: its shape, its checkpoints, and the page that computes it."""
