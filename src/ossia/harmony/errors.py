"""The error for input that cannot be read.

In: the field at fault, and words. Out: an exception. The server answers it with 400; the trainer names the line.
"""


class InputError(ValueError):
    """Input that cannot be read. param: the field, as a dotted path, or None. code: for programs to compare."""

    def __init__(self, param: str | None, message: str, code: str = "invalid_value") -> None:
        super().__init__(message)
        self.param, self.code = param, code
