"""Parts that task families share: words, functions, arithmetic, grades."""
