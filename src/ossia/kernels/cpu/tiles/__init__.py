"""The innermost loops of the CPU kernels: tiles of matrix products and of attention."""
