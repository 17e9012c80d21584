"""The browser tool of gpt-oss: search, open pages, find text in them, cite them."""
