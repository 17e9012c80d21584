"""Code that a model wrote: taken out of its answer, run in the sandbox within limits, judged from outside of it."""
