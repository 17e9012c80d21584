"""The engine: requests in, sampled tokens out, however they were scheduled."""
