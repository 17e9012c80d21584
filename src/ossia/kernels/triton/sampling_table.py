# pyright: standard
"""Layout of a row's sampling parameters for the kernels: float64, which holds all of their integers exactly."""

FIELDS = 8  # of a row: temperature, top_p, min_p, uniform, top_k, row of masks or -1, row of biases or -1, unused
SURVEYED = 8  # of a slice: max and sum of all logits; max, sum and first token of the allowed ones; 3 unused
