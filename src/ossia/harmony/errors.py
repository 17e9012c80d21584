"""The error for invalid input.

In: the field, a message and a code. Out: an exception. The server answers it with 400; the trainer adds the line number.
"""


class InputError(ValueError):
    """Invalid input. param: the field as a dotted path, or None. code: a constant for programs.

    Fields have the names of the Chat Completions API. Each API of the server replaces them with its own.
    """

    def __init__(self, param: str | None, message: str, code: str = "invalid_value") -> None:
        super().__init__(message)
        self.param, self.code = param, code
