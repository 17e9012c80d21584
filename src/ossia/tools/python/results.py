"""What a cell of Python did, apart from the sandbox that runs it."""

import msgspec


class PythonResult(msgspec.Struct, frozen=True):
    """What a cell did. files and images: names in the data folder. state_lost: the next cell begins with no variables."""

    code: str
    logs: str
    files: tuple[str, ...] = ()
    images: tuple[str, ...] = ()
    seconds: float = 0.0
    timed_out: bool = False
    state_lost: bool = False
