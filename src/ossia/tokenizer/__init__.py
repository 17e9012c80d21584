"""Text to token ids and back, and the tokenizer.json file."""
