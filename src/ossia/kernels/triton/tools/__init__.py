"""Tools around the Triton backend: checks, probes and compiled-kernel facts."""
