"""The engine: scheduling, the paged cache, sampling and speculation over one model."""
