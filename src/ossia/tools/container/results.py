"""What a command in the container did, apart from the sandbox that runs it."""

import msgspec

from ossia.tools.sandbox.settings import DATA


class ShellResult(msgspec.Struct, frozen=True):
    """What a command did. exit_code: as shells report it, 128 and a signal's number, 124 after a time-out."""

    command: tuple[str, ...]
    stdout: str
    stderr: str
    exit_code: int
    seconds: float
    timed_out: bool = False
    workdir: str = DATA
    session: str | None = None
