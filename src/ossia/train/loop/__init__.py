"""The training loop: steps, checkpoints, logs, optimizers, processes."""
