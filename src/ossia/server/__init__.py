"""The server: HTTP APIs over one model. Imported only by `ossia serve`."""
