"""The Responses API: its wire types, its items as harmony messages, its events, its routes."""
