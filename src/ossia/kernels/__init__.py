"""Compute kernels: one op set, implemented by each backend."""
