"""Tools that a model may call: a specification to declare, and a function to run."""
