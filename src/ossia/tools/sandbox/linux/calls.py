"""System calls of Linux that Python has no function for, through ctypes.

In: plain values. Out: the call's result; a failed call is an OSError that names it.
"""

import ctypes
import os
import struct

NEWNS, NEWCGROUP, NEWUTS, NEWIPC = 0x20000, 0x2000000, 0x4000000, 0x8000000
NEWUSER, NEWPID, NEWNET, NEWTIME = 0x10000000, 0x20000000, 0x40000000, 0x80
NAMESPACES = NEWNS | NEWCGROUP | NEWUTS | NEWIPC | NEWUSER | NEWPID | NEWNET

RDONLY, NOSUID, NODEV, NOEXEC, REMOUNT, BIND, REC, PRIVATE = 1, 2, 4, 8, 32, 4096, 16384, 1 << 18
DETACH = 2  # umount2: from the tree now, for good when unused

_PDEATHSIG, _SET_DUMPABLE, _SET_SECCOMP, _CAPBSET_DROP, _CHILD_SUBREAPER, _NO_NEW_PRIVS = 1, 4, 22, 24, 36, 38
_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}
MOUNT_SETATTR, _LANDLOCK = 442, (444, 445, 446)
_AT_RECURSIVE, AT_FDCWD = 0x8000, -100
LAST_CAPABILITY = 63

libc = ctypes.CDLL(None, use_errno=True)


def _check(result: int, what: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return result


def syscall(what: str, number: int, *arguments: object) -> int:
    """A raw call. Integers are passed as 64 bits."""
    words = [ctypes.c_long(word) if isinstance(word, int) else word for word in arguments]
    return _check(libc.syscall(ctypes.c_long(number), *words), what)


def unshare(flags: int) -> None:
    _check(libc.unshare(ctypes.c_int(flags)), "unshare")


def mount(source: str | None, target: str, kind: str | None, flags: int, data: str | None = None) -> None:
    parts = [text.encode() if text is not None else None for text in (source, target, kind, data)]
    result = libc.mount(parts[0], parts[1], parts[2], ctypes.c_ulong(flags), parts[3])
    _check(result, f"mount {kind or source or 'flags'} at {target}")


def unmount(target: str) -> None:
    _check(libc.umount2(target.encode(), ctypes.c_int(DETACH)), f"umount {target}")


def set_hostname(name: str) -> None:
    _check(libc.sethostname(name.encode(), ctypes.c_size_t(len(name))), "sethostname")


def pivot_root(new: str, old: str) -> None:
    syscall("pivot_root", _PIVOT_ROOT[os.uname().machine], new.encode(), old.encode())


def mount_attributes(target: str, flags: int) -> None:
    """Set RDONLY, NOSUID and NODEV on a mount and on all mounts in it (Linux 5.12 and newer)."""
    attributes = struct.pack("QQQQ", flags & (RDONLY | NOSUID | NODEV | NOEXEC), 0, 0, 0)
    where = (ctypes.c_int(AT_FDCWD), target.encode(), ctypes.c_uint(_AT_RECURSIVE))
    syscall(f"mount_setattr {target}", MOUNT_SETATTR, *where, attributes, ctypes.c_size_t(len(attributes)))


def _prctl(what: str, option: int, second: object = 0, third: object = 0) -> int:
    zero = ctypes.c_ulong(0)
    pair = [ctypes.c_ulong(value) if isinstance(value, int) else value for value in (second, third)]
    return _check(libc.prctl(ctypes.c_int(option), *pair, zero, zero), what)


def die_with_parent() -> None:
    """SIGKILL for this process when its parent ends. A change of user or capabilities undoes it."""
    _prctl("prctl PDEATHSIG", _PDEATHSIG, 9)


def hide_memory() -> None:
    """Other processes of the same user cannot read this one's memory, environment or files in /proc."""
    _prctl("prctl DUMPABLE", _SET_DUMPABLE, 0)


def adopt_orphans() -> None:
    """Descendants whose parents ended become children of this process."""
    _prctl("prctl SUBREAPER", _CHILD_SUBREAPER, 1)


def no_new_privileges() -> None:
    _prctl("prctl NO_NEW_PRIVS", _NO_NEW_PRIVS, 1)


def load_filter(program: bytes) -> None:
    """Load a seccomp filter: 8 bytes an instruction."""
    code = ctypes.create_string_buffer(program, len(program))

    class Program(ctypes.Structure):
        _fields_ = (("length", ctypes.c_ushort), ("code", ctypes.c_void_p))

    _prctl("seccomp", _SET_SECCOMP, 2, ctypes.byref(Program(len(program) // 8, ctypes.addressof(code))))


def drop_bounding_capabilities() -> None:
    """No program can gain a capability again. Needs CAP_SETPCAP, so before `drop_capabilities`."""
    for number in range(LAST_CAPABILITY + 1):
        try:
            _prctl("prctl CAPBSET_DROP", _CAPBSET_DROP, number)
        except OSError:
            break  # the kernel has no capability of this number, or we may not drop any


def drop_capabilities() -> None:
    header, data = struct.pack("Ii", 0x20080522, 0), struct.pack("6I", 0, 0, 0, 0, 0, 0)
    _check(libc.capset(header, data), "capset")


def landlock_version() -> int:
    """The version of Landlock's interface that the kernel offers; 0 without Landlock."""
    try:
        return syscall("landlock", _LANDLOCK[0], None, ctypes.c_size_t(0), ctypes.c_uint(1))
    except OSError:
        return 0


def landlock_ruleset(attributes: bytes) -> int:
    """A file descriptor of a new ruleset."""
    return syscall(
        "landlock_create_ruleset", _LANDLOCK[0], attributes, ctypes.c_size_t(len(attributes)), ctypes.c_uint(0)
    )


def landlock_allow(ruleset: int, access: int, folder: int) -> None:
    rule = struct.pack("=Qi", access, folder)
    syscall("landlock_add_rule", _LANDLOCK[1], ctypes.c_int(ruleset), ctypes.c_int(1), rule, ctypes.c_uint(0))


def landlock_enforce(ruleset: int) -> None:
    syscall("landlock_restrict_self", _LANDLOCK[2], ctypes.c_int(ruleset), ctypes.c_uint(0))
