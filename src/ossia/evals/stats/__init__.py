"""How sure a score is: intervals, and comparisons of two runs."""
