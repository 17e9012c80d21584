"""Landlock: which files a program may touch, without a mount namespace. It also keeps signals and sockets inside.

In: the paths. Out: a ruleset that is enforced for this process and its children. Landlock checks opening, creating and
removing; what it does not check (changes by path to modes and owners) is refused by the seccomp filter.
"""

import os
import stat
import struct

from ossia.tools.sandbox.linux import calls

_EXECUTE, _WRITE, _READ, _READ_FOLDER = 1, 2, 4, 8
_MAKE_CHAR, _MAKE_BLOCK, _MAKE_SOCKET = 1 << 6, 1 << 11, 1 << 9
_REFER, _TRUNCATE, _IOCTL = 1 << 13, 1 << 14, 1 << 15
_FIRST = (1 << 13) - 1  # what version 1 knows
_READING = _EXECUTE | _READ | _READ_FOLDER
_ON_FILES = _EXECUTE | _WRITE | _READ | _TRUNCATE | _IOCTL
_TCP = 3  # bind and connect
_SCOPES = 3  # abstract sockets and signals
SCOPES_SINCE = 6


def handled(version: int) -> int:
    """The rights over files that this version of Landlock can refuse."""
    return (
        _FIRST | (_REFER if version >= 2 else 0) | (_TRUNCATE if version >= 3 else 0) | (_IOCTL if version >= 5 else 0)
    )


def attributes(version: int, files: bool, network: bool) -> bytes:
    """A ruleset's description. files: restrict the file system. network: allow TCP."""
    fields = [handled(version) if files else 0]
    if version >= 4:
        fields.append(0 if network else _TCP)
    if version >= SCOPES_SINCE:
        fields.append(_SCOPES)
    return struct.pack(f"{len(fields)}Q", *fields)


def scopes() -> int | None:
    """A ruleset that only keeps signals and abstract sockets inside; None where the kernel is too old for that."""
    version = calls.landlock_version()
    return calls.landlock_ruleset(attributes(version, files=False, network=True)) if version >= SCOPES_SINCE else None


def ruleset(readable: list[str], writable: list[str], network: bool) -> int:
    """A ruleset for these paths, to be enforced by `calls.landlock_enforce`."""
    version = calls.landlock_version()
    made = calls.landlock_ruleset(attributes(version, files=True, network=network))
    everything = handled(version) & ~(_MAKE_CHAR | _MAKE_BLOCK | _MAKE_SOCKET | _IOCTL)
    for path in readable:
        _allow(made, path, _READING & handled(version))
    for path in writable:
        _allow(made, path, everything)
    for name in ("null", "zero", "full", "random", "urandom"):
        _allow(made, f"/dev/{name}", _READ | _WRITE)
    return made


def _allow(made: int, path: str, access: int) -> None:
    try:
        folder = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return  # a link to nothing
    try:
        if not stat.S_ISDIR(os.fstat(folder).st_mode):
            access &= _ON_FILES
        calls.landlock_allow(made, access, folder)
    finally:
        os.close(folder)
