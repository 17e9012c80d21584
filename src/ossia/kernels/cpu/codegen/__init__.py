"""How the CPU kernels are generated, compiled and cached."""
