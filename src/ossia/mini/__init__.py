"""ossia-mini: its weights, the tasks that it is trained and judged on, and its curriculum."""
