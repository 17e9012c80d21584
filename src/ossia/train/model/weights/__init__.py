"""How a trainable model holds its weights: dense, quantised on the fly, frozen, with adapters."""
