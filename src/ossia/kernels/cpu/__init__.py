"""The op set on a CPU: Numba kernels that emit the machine's own vector instructions."""
