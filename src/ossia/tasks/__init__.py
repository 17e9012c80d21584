"""The task families that ossia-mini is trained, rewarded and judged on: every problem is made by code from a seed."""
