"""HTTP: connections, event streams, access rules, logs, metrics and the web page."""
