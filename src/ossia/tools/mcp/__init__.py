"""Tools of MCP servers (Model Context Protocol), and Ossia's own tools offered as an MCP server.

The package `mcp` is an extra. It is imported when a server is connected or offered, and not before.
"""
