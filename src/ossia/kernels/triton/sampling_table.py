"""How a row's sampling parameters are laid out for the kernels: float64, which holds every integer among them exactly."""

FIELDS = 8  # of a row: temperature, top_p, min_p, share, top_k, row of masks or -1, row of biases or -1, nothing
SURVEYED = 8  # of a slice: maximum and sum of the logits, maximum, sum and first of what is allowed, nothing thrice
