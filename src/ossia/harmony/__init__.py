"""The harmony format: messages, their rendering to token ids, and the parser that reads them back."""
