"""Training data: sources, rows, sequences and batches."""
