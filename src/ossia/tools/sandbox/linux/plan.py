"""What `enter` is asked to do, as it travels from Ossia to the helper process.

In: `Plan` fields. Out: one line of JSON, and the same `Plan` from it. Also which files of the machine programs see.
"""

import json
import os
import sys
from dataclasses import asdict, dataclass

DATA = "/mnt/data"
INTERRUPT = b"I"  # what Ossia sends on the control socket to interrupt the program
SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/nix/store", "/gnu/store")
SETTINGS = ("/etc/ld.so.cache", "/etc/ld.so.conf", "/etc/ld.so.conf.d", "/etc/alternatives", "/etc/localtime",
            "/etc/mime.types", "/etc/fonts", "/etc/python3", "/etc/python3.11", "/etc/python3.12",
            "/etc/python3.13", "/etc/bash.bashrc", "/etc/inputrc", "/etc/terminfo")  # fmt: skip
NETWORK = ("/etc/resolv.conf", "/etc/hosts", "/etc/nsswitch.conf", "/etc/services", "/etc/protocols", "/etc/gai.conf",
           "/etc/host.conf", "/etc/ssl", "/etc/pki", "/etc/ca-certificates", "/etc/ca-certificates.conf")  # fmt: skip
DEVICES = ("null", "zero", "full", "random", "urandom")


@dataclass(frozen=True, slots=True)
class Plan:
    """One sandboxed program. form: root, user, landlock or none. data: the host's folder behind /mnt/data.

    temporary: the folder that stands for /tmp in the forms without namespaces. folder: where the program begins.
    paths: files and folders that it may read. keep: open file descriptors for it, besides 0, 1 and 2. user: of the
    program, for the form root and for Landlock as root. inodes: most files that it may add. of_root: `data` is root's, and is
    shown as the user's.
    """

    form: str
    argv: list[str]
    environment: dict[str, str]
    data: str
    temporary: str
    folder: str
    paths: list[str]
    keep: list[int]
    user: int
    network: bool
    memory_bytes: int
    processes: int
    file_bytes: int
    disk_bytes: int
    tmp_bytes: int
    open_files: int
    seconds: float | None = None
    inodes: int = 200_000
    of_root: bool = False

    def line(self) -> bytes:
        return json.dumps(asdict(self)).encode() + b"\n"


def plan_of(line: bytes) -> Plan:
    return Plan(**json.loads(line))


def visible_paths(network: bool) -> list[str]:
    """What programs may read on this machine, with links unresolved: the system and this Python."""
    prefixes = dict.fromkeys((sys.prefix, sys.base_prefix, sys.exec_prefix))
    python = [path for prefix in prefixes for path in python_paths(prefix, os.path.expanduser("~"))]
    found = [*SYSTEM, *SETTINGS, *(NETWORK if network else ()), *python, *links_of(sys.executable)]
    return [path for path in dict.fromkeys(map(os.path.normpath, found)) if path != "/" and os.path.lexists(path)]


def python_paths(prefix: str, home: str) -> list[str]:
    """Where a Python is installed; only its own parts of a folder that also holds the user's home."""
    if f"{home}/".startswith(f"{prefix.rstrip('/')}/"):
        return [f"{prefix.rstrip('/')}/{name}" for name in ("bin", "lib", "lib64", "pyvenv.cfg")]
    return [prefix]


def links_of(path: str) -> list[str]:
    """The links that lead from this path to its file, outside of the folders that programs see anyway."""
    found: list[str] = []
    while os.path.islink(path) and len(found) < 16:
        path = os.path.normpath(os.path.join(os.path.dirname(path), os.readlink(path)))
        found.append(path)
    return found
