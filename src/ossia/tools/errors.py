"""The error of a tool itself, for parts that import only the standard library."""


class ToolUnavailableError(Exception):
    """A tool could not start or its sandbox failed. This is never shown to the model as a program's own output."""
