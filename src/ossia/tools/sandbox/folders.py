"""Folders of a sandbox on the host: made for one conversation, removed with all that a program left there.

In: nothing, or a folder that the caller chose. Out: its path, owned by the user that the program will run as.
"""

import os
import secrets
import subprocess
import tempfile
from pathlib import Path

from ossia.tools.sandbox.settings import SandboxError

_NOBODY = 65534
_FIRST_USER, _USERS = 1_900_000_000, 1 << 24  # not used by any system; each folder has its own, and so its own limits


def private_folder(beside: Path | None = None) -> Path:
    """A new folder. If this is root, it belongs to a user of its own, whose processes are counted alone.

    beside: a folder of the same program, whose owner gets this one too.
    """
    path = Path(tempfile.mkdtemp(prefix="ossia-"))
    if os.name == "posix" and os.geteuid() == 0:
        user = beside.stat().st_uid if beside else _own_user()
        os.chown(path, user, user)
    return path


def _own_user() -> int:
    user = _FIRST_USER + secrets.randbelow(_USERS)
    try:
        with open("/proc/self/uid_map", encoding="ascii") as lines:
            ranges = [tuple(map(int, line.split())) for line in lines]
    except OSError:
        return _NOBODY
    return user if any(first <= user < first + count for first, _, count in ranges) else _NOBODY


def user_of(root: Path, mapped: bool) -> int:
    """The user that programs run as: this one, or for root the owner of the folder, who may not be root.

    mapped: a folder of root's can be shown as another user's, so that any user will do.
    """
    if os.geteuid() != 0:
        return os.getuid()
    owner = root.stat().st_uid
    if owner == 0 and not mapped:
        raise SandboxError(f"{root} belongs to root, and sandboxed programs do not run as root: {remedy_for(root)}")
    return owner or _own_user()


def remedy_for(root: Path) -> str:
    """What to do about a folder of root's that programs cannot use."""
    return f"give it to another user (chown -R {_NOBODY} {root}), or name a folder that belongs to one"


def remove_folder(path: Path) -> None:
    """Remove a folder, however deep and whatever its modes. Blocks: run it in a thread."""
    if not path.exists():
        return
    # chmod and rm are not confused by links, depths or names, and a program may have taken its own rights away
    commands = [["rm", "-rf", "--", str(path)]]
    if os.geteuid() != 0:
        commands.insert(0, ["chmod", "-R", "u+rwX", "--", str(path)])
    for command in commands:
        subprocess.run(
            command, check=False, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
