"""The network: its config, its checkpoints, and the forward function."""
