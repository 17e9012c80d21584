"""Task families with built-in tools. They are opt-in: ossia-mini was not trained on them."""
