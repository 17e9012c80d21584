"""Which system calls the sandbox refuses, as a seccomp filter for x86-64 and 64-bit Arm.

In: the machine and two settings. Out: `program`, the filter's instructions as bytes; loading it is left to `calls`.
"""

import errno
import struct
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Literal

from ossia.tools.sandbox.linux.calls import NAMESPACES

# By name: the numbers on x86-64 and on 64-bit Arm; None where the machine has no such call.
NUMBERS: dict[str, tuple[int | None, int | None]] = {
    "open": (2, None), "openat": (257, 56), "openat2": (437, 437), "creat": (85, None),
    "mkdir": (83, None), "mkdirat": (258, 34), "mknod": (133, None), "mknodat": (259, 33),
    "chmod": (90, None), "fchmod": (91, 52), "fchmodat": (268, 53), "fchmodat2": (452, 452),
    "chown": (92, None), "lchown": (94, None), "fchownat": (260, 54), "truncate": (76, 45),
    "utime": (132, None), "utimes": (235, None), "futimesat": (261, None), "utimensat": (280, 88),
    "setxattr": (188, 5), "lsetxattr": (189, 6), "removexattr": (197, 14), "lremovexattr": (198, 15),
    "setxattrat": (463, 463), "removexattrat": (466, 466), "file_setattr": (469, 469),
    "ioctl": (16, 29), "socket": (41, 198), "socketpair": (53, 199), "clone": (56, 220), "clone3": (435, 435),
    "kill": (62, 129), "tkill": (200, 130), "tgkill": (234, 131), "rt_sigqueueinfo": (129, 138),
    "rt_tgsigqueueinfo": (297, 240), "pidfd_open": (434, 434), "pidfd_send_signal": (424, 424),
    "prlimit64": (302, 261), "setpriority": (141, 140), "ioprio_set": (251, 30), "sched_setparam": (142, 118),
    "sched_setscheduler": (144, 119), "sched_setaffinity": (203, 122), "sched_setattr": (314, 274),
    "personality": (135, 92), "ptrace": (101, 117), "process_vm_readv": (310, 270), "process_vm_writev": (311, 271),
    "process_madvise": (440, 440), "process_mrelease": (448, 448), "kcmp": (312, 272), "pidfd_getfd": (438, 438),
    "mount": (165, 40), "umount2": (166, 39), "pivot_root": (155, 41), "chroot": (161, 51), "unshare": (272, 97),
    "setns": (308, 268), "open_tree": (428, 428), "move_mount": (429, 429), "fsopen": (430, 430),
    "fsconfig": (431, 431), "fsmount": (432, 432), "fspick": (433, 433), "mount_setattr": (442, 442),
    "open_tree_attr": (467, 467), "statmount": (457, 457), "listmount": (458, 458),
    "swapon": (167, 224), "swapoff": (168, 225), "reboot": (169, 142), "acct": (163, 89), "quotactl": (179, 60),
    "quotactl_fd": (443, 443), "init_module": (175, 105), "finit_module": (313, 273), "delete_module": (176, 106),
    "create_module": (174, None), "kexec_load": (246, 104), "kexec_file_load": (320, 294), "bpf": (321, 280),
    "perf_event_open": (298, 241), "userfaultfd": (323, 282), "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426), "io_uring_register": (427, 427), "keyctl": (250, 219), "add_key": (248, 217),
    "request_key": (249, 218), "settimeofday": (164, 170), "clock_settime": (227, 112), "adjtimex": (159, 171),
    "clock_adjtime": (305, 266), "sethostname": (170, 161), "setdomainname": (171, 162), "iopl": (172, None),
    "ioperm": (173, None), "modify_ldt": (154, None), "vhangup": (153, 58), "syslog": (103, 116),
    "nfsservctl": (180, 42), "lookup_dcookie": (212, 18), "uselib": (134, None), "ustat": (136, None),
    "sysfs": (139, None), "_sysctl": (156, None), "name_to_handle_at": (303, 264), "open_by_handle_at": (304, 265),
    "fanotify_init": (300, 262), "fanotify_mark": (301, 263), "migrate_pages": (256, 238), "move_pages": (279, 239),
    "memfd_create": (319, 279), "memfd_secret": (447, 447), "shmget": (29, 194), "semget": (64, 190),
    "msgget": (68, 186), "mq_open": (240, 180),
}  # fmt: skip

_REFUSED = """ptrace process_vm_readv process_vm_writev process_madvise process_mrelease kcmp pidfd_getfd mount umount2
    pivot_root chroot unshare setns open_tree move_mount fsopen fsconfig fsmount fspick mount_setattr open_tree_attr
    statmount listmount swapon swapoff reboot acct quotactl quotactl_fd init_module finit_module delete_module
    create_module kexec_load kexec_file_load bpf perf_event_open userfaultfd keyctl add_key request_key settimeofday
    clock_settime adjtimex clock_adjtime sethostname setdomainname iopl ioperm modify_ldt vhangup syslog nfsservctl
    lookup_dcookie uselib ustat sysfs _sysctl name_to_handle_at open_by_handle_at fanotify_init fanotify_mark
    migrate_pages move_pages""".split()
# Programs have another way when these are missing. Shared memory outside of files is not in any process's memory count.
_MISSING = """clone3 io_uring_setup io_uring_enter io_uring_register memfd_create memfd_secret shmget semget msgget
    mq_open openat2 fchmodat2 setxattrat removexattrat file_setattr""".split()
# Landlock does not check these, and without namespaces they reach files and processes of the same user.
_BY_PATH = (
    "chmod fchmodat chown lchown fchownat utime utimes futimesat setxattr lsetxattr removexattr lremovexattr".split()
)
_ON_PROCESSES = "sched_setparam sched_setscheduler sched_setaffinity sched_setattr".split()
_SIGNALS = "kill tkill tgkill rt_sigqueueinfo rt_tgsigqueueinfo pidfd_open pidfd_send_signal".split()

AF_UNIX, AF_INET, AF_INET6, SOCK_RAW, SOCK_PACKET, SOCK_TYPES = 1, 2, 10, 3, 10, 0xF
TIOCSTI, TIOCLINUX, TIOCSETD = 0x5412, 0x541C, 0x5423  # type into a terminal, and its other tricks
SET_ID_BITS = 0o6000
USUAL_PERSONALITIES = (0, 8, 0x20000, 0x20008, 0xFFFFFFFF)

_ARCHITECTURES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}
_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _AND, _JUMP, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x54, 0x05, 0x06
_ALLOW, _ERRNO, _KILL = 0x7FFF0000, 0x00050000, 0x80000000
_X32 = 0x40000000  # x86-64's 32-bit pointers: the same calls under other numbers


@dataclass(frozen=True, slots=True)
class When:
    """A call is refused when this holds for one of its arguments. mask: applied before the test.

    "in" and "not in" compare with `values`, "any bit" tests the bits of values[0], "not null" tests all 64 bits.
    """

    argument: int
    test: Literal["in", "not in", "any bit", "not null"]
    values: tuple[int, ...] = ()
    mask: int | None = None


@dataclass(frozen=True, slots=True)
class Rule:
    """A call that is refused with an error number: always, or when one of the conditions holds."""

    name: str
    error: int = errno.EPERM
    when: tuple[When, ...] = field(default=())


def rules(network: bool, namespaces: bool, scoped: bool) -> list[Rule]:
    """What is refused. namespaces: the program has its own. scoped: Landlock keeps its signals and sockets inside."""
    found = [Rule(name) for name in _REFUSED] + [Rule(name, errno.ENOSYS) for name in _MISSING]
    # A socket with a path or an abstract name may reach services of the host, unless it is shut in.
    unix = (AF_UNIX,) if namespaces and (scoped or not network) else ()
    families = unix + ((AF_INET, AF_INET6) if network else ())
    raw = When(1, "in", (SOCK_RAW, SOCK_PACKET), mask=SOCK_TYPES)
    found += [
        Rule("socket", when=(When(0, "not in", families), raw)),
        Rule("socketpair", when=(When(0, "not in", (AF_UNIX,)),)),
        Rule("clone", when=(When(0, "any bit", (NAMESPACES,)),)),
        Rule("ioctl", when=(When(1, "in", (TIOCSTI, TIOCLINUX, TIOCSETD)),)),
        Rule("personality", when=(When(0, "not in", USUAL_PERSONALITIES),)),
        *_without_set_id(skip=() if namespaces else _BY_PATH),
    ]
    return found if namespaces else found + _without_namespaces(scoped)


def _without_set_id(skip: Collection[str]) -> list[Rule]:
    """No set-user-ID files: the workspace is also visible outside, where they would work."""
    modes = {"chmod": 1, "fchmod": 1, "fchmodat": 2, "open": 2, "openat": 3, "creat": 1}
    modes |= {"mkdir": 1, "mkdirat": 2, "mknod": 1, "mknodat": 2}
    return [Rule(name, when=(When(at, "any bit", (SET_ID_BITS,)),)) for name, at in modes.items() if name not in skip]


def _without_namespaces(scoped: bool) -> list[Rule]:
    found = [Rule(name) for name in [*_BY_PATH, *([] if scoped else _SIGNALS)]]
    found += [Rule(name, when=(When(0, "not in", (0,)),)) for name in [*_ON_PROCESSES, "prlimit64"]]
    found += [Rule(name, when=(When(1, "not in", (0,)),)) for name in ("setpriority", "ioprio_set")]
    found += [Rule("utimensat", when=(When(1, "not null"),))]
    return found + ([Rule("kill", when=(When(0, "in", (0xFFFFFFFF,)),))] if scoped else [])


def program(machine: str, refused: list[Rule]) -> bytes:
    """The filter as instructions of 8 bytes. Other calls are allowed; calls of another architecture kill."""
    column, architecture = _ARCHITECTURES[machine]
    code = [_op(_LOAD, 4), _op(_EQUAL, architecture, 1, 0), _op(_RETURN, _KILL), _op(_LOAD, 0)]
    if machine == "x86_64":
        code += [_op(_AT_LEAST, _X32, 0, 1), _op(_RETURN, _ERRNO | errno.ENOSYS)]
    for rule in refused:
        if (number := NUMBERS[rule.name][column]) is not None:
            block = _block(rule)
            code += [_op(_EQUAL, number, 0, len(block)), *block]
    return b"".join([*code, _op(_RETURN, _ALLOW)])


def _op(code: int, value: int, yes: int = 0, no: int = 0) -> bytes:
    return struct.pack("=HBBI", code, yes, no, value)


def _block(rule: Rule) -> list[bytes]:
    """What runs for one call: each condition either jumps to the refusal or falls through to the next one."""
    refuse = _op(_RETURN, _ERRNO | rule.error)
    if not rule.when:
        return [refuse]
    code = [refuse, _op(_RETURN, _ALLOW)]  # written from the end: `refuse` is last, so its distance is known
    code.reverse()
    for condition in reversed(rule.when):
        code = _condition(condition, len(code) - 1) + code
    return code


def _condition(when: When, distance: int) -> list[bytes]:
    """distance: from the end of this condition to the refusal."""
    low = 16 + 8 * when.argument
    load = [_op(_LOAD, low)] + ([_op(_AND, when.mask)] if when.mask is not None else [])
    if when.test == "not null":
        return [*load, _op(_EQUAL, 0, 0, distance + 2), _op(_LOAD, low + 4), _op(_EQUAL, 0, 0, distance)]
    if when.test == "any bit":
        return [*load, _op(_ANY_BIT, when.values[0], distance, 0)]
    count = len(when.values)
    if when.test == "in":
        tests = [_op(_EQUAL, value, distance + count - 1 - at, 0) for at, value in enumerate(when.values)]
        return load + tests
    tests = [_op(_EQUAL, value, count - at, 0) for at, value in enumerate(when.values)]
    return [*load, *tests, _op(_JUMP, distance)]
