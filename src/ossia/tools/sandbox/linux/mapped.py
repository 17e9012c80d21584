"""A mount whose files seem to belong to another user: root's own folder becomes writable for a program that is not root.

In: a folder and a user. Out: a mount where root's files are that user's; new files are root's on disk (Linux 5.12).
"""

import os
import signal
import struct

from ossia.tools.sandbox.linux import calls

_OPEN_TREE, _MOVE_MOUNT = 428, 429
_CLONE, _EMPTY_PATH, _FROM_EMPTY_PATH = 1, 0x1000, 4
_IDMAP = 0x00100000


def user_mapping(user: int) -> int:
    """A user namespace in which this user is root, as a file descriptor. Needs root and the host's /proc."""
    ready, wait = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        try:
            calls.unshare(calls.NEWUSER)
            os.write(ready[1], os.readlink("/proc/self").encode())  # its number in the host's pid namespace
            os.close(wait[1])
            os.read(wait[0], 1)
        finally:
            os._exit(0)
    os.close(ready[1])
    try:
        number = os.read(ready[0], 32).decode()
        if not number:
            raise OSError(0, "user namespaces are off")
        for name in ("uid_map", "gid_map"):
            with open(f"/proc/{number}/{name}", "w", encoding="ascii") as file:
                file.write(f"0 {user} 1")
        return os.open(f"/proc/{number}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        for fd in (ready[0], *wait):
            os.close(fd)


def bind_mapped(source: str, target: str, namespace: int) -> None:
    """Mount a folder with the users of this namespace, without set-user-ID and devices."""
    flags = _CLONE | os.O_CLOEXEC
    tree = calls.syscall("open_tree", _OPEN_TREE, calls.AT_FDCWD, source.encode(), flags)
    try:
        attributes = struct.pack("QQQQ", _IDMAP | calls.NOSUID | calls.NODEV, 0, 0, namespace)
        calls.syscall("mount_setattr", calls.MOUNT_SETATTR, tree, b"", _EMPTY_PATH, attributes, len(attributes))
        calls.syscall("move_mount", _MOVE_MOUNT, tree, b"", calls.AT_FDCWD, target.encode(), _FROM_EMPTY_PATH)
    finally:
        os.close(tree)
