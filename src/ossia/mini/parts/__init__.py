"""What the task families are made of: words, functions, arithmetic, grades."""
