"""The error for invalid input.

In: the field, and a message. Out: an exception. The server answers it with 400; the trainer adds the line number.
"""


class InputError(ValueError):
    """Invalid input. param: the field as a dotted path, or None. code: a constant for programs."""

    def __init__(self, param: str | None, message: str, code: str = "invalid_value") -> None:
        super().__init__(message)
        self.param, self.code = param, code
