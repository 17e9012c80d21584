"""The GPU backend in Triton."""
