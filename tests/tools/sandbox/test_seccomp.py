"""The seccomp filter: its numbers are the kernel's, and its instructions decide as the rules say.

The filter is run by a small interpreter of classic BPF, for machines that the tests do not run on.
"""

import errno
import re
import struct
from pathlib import Path

import pytest

from ossia.tools.sandbox.linux.seccomp import NUMBERS, Rule, When, program, rules

ARCHITECTURE = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
HEADERS = {0: "/usr/include/x86_64-linux-gnu/asm/unistd_64.h", 1: "/usr/include/asm-generic/unistd.h"}
ALLOW, KILL = 0x7FFF0000, 0x80000000


def decide(filter_: bytes, number: int, *arguments: int, architecture: int) -> int:
    """What the kernel would return for this call."""
    data = struct.pack("=IIQ6Q", number, architecture, 0, *[*arguments, 0, 0, 0, 0, 0, 0][:6])
    code = [struct.unpack_from("=HBBI", filter_, at) for at in range(0, len(filter_), 8)]
    value, at = 0, 0
    while True:
        op, yes, no, operand = code[at]
        at += 1
        match op:
            case 0x20:
                (value,) = struct.unpack_from("=I", data, operand)
            case 0x54:
                value &= operand
            case 0x05:
                at += operand
            case 0x06:
                return operand
            case 0x15 | 0x35 | 0x45:
                holds = {0x15: value == operand, 0x35: value >= operand, 0x45: value & operand != 0}[op]
                at += yes if holds else no
            case _:
                raise AssertionError(hex(op))


def refusal(
    machine: str, name: str, *arguments: int, network: bool = False, namespaces: bool = True, scoped: bool = False
):
    """The error number that a call ends with; None if it is allowed."""
    filter_ = program(machine, rules(network, namespaces, scoped))
    number = NUMBERS[name][0 if machine == "x86_64" else 1]
    assert number is not None
    found = decide(filter_, number, *arguments, architecture=ARCHITECTURE[machine])
    return None if found == ALLOW else found & 0xFFFF


each_machine = pytest.mark.parametrize("machine", ARCHITECTURE)


@pytest.mark.parametrize("column", HEADERS)
def test_numbers_are_those_of_the_kernel(column: int):
    header = Path(HEADERS[column])
    if not header.exists():
        pytest.skip(f"needs {header}")
    known = dict(re.findall(r"#define __NR(?:3264)?_(\w+)\s+(\d+)", header.read_text()))
    for name, numbers in NUMBERS.items():
        if name in known:
            assert numbers[column] == int(known[name]), name
        else:
            assert numbers[column] is None or numbers[column] >= 450, name  # newer than these headers


@each_machine
def test_dangerous_calls_are_refused(machine: str):
    for name in (
        "mount",
        "ptrace",
        "bpf",
        "keyctl",
        "userfaultfd",
        "perf_event_open",
        "unshare",
        "setns",
        "kexec_load",
    ):
        assert refusal(machine, name) == errno.EPERM, name
    for name in ("clone3", "io_uring_setup", "memfd_create", "openat2"):
        assert refusal(machine, name) == errno.ENOSYS, name


@each_machine
def test_other_calls_and_other_arguments_are_allowed(machine: str):
    assert decide(program(machine, rules(False, True, False)), 0, architecture=ARCHITECTURE[machine]) == ALLOW
    assert refusal(machine, "clone", 0x1200011) is None
    assert refusal(machine, "openat", 0, 0, 0o100, 0o644) is None
    assert refusal(machine, "ioctl", 0, 0x5401) is None
    assert refusal(machine, "kill", 5, 9) is None


@each_machine
def test_arguments_decide(machine: str):
    assert refusal(machine, "clone", 0x10000000 | 17) == errno.EPERM
    assert refusal(machine, "ioctl", 0, 0x5412) == errno.EPERM
    assert refusal(machine, "ioctl", 0, 0x5412 | 1 << 40) == errno.EPERM  # the kernel reads 32 bits
    assert refusal(machine, "fchmodat", 0, 0, 0o4755) == errno.EPERM
    assert refusal(machine, "personality", 0x0040000) == errno.EPERM


@each_machine
def test_sockets_depend_on_the_network(machine: str):
    unix, inet, inet6, netlink, packet = 1, 2, 10, 16, 17
    for family in (inet, inet6, netlink, packet):
        assert refusal(machine, "socket", family, 1) == errno.EPERM
    assert refusal(machine, "socket", unix, 1) is None
    assert refusal(machine, "socket", inet, 1 | 0o2000000, network=True) is None
    assert refusal(machine, "socket", inet, 3 | 0o2000000, network=True) == errno.EPERM  # raw
    assert refusal(machine, "socket", netlink, 3, network=True) == errno.EPERM
    assert refusal(machine, "socket", unix, 1, network=True) == errno.EPERM  # the host's abstract sockets
    assert refusal(machine, "socket", unix, 1, network=True, scoped=True) is None


@each_machine
def test_without_namespaces_paths_and_processes_of_the_user_are_out_of_reach(machine: str):
    outside = {"namespaces": False, "scoped": True}
    assert refusal(machine, "socket", 1, 1, **outside) == errno.EPERM
    assert refusal(machine, "fchmodat", 0, 0, 0o644, **outside) == errno.EPERM
    assert refusal(machine, "utimensat", 3, 0, 0, **outside) is None  # of an open file
    assert refusal(machine, "utimensat", 3, 1 << 32, 0, **outside) == errno.EPERM
    assert refusal(machine, "prlimit64", 0, **outside) is None
    assert refusal(machine, "prlimit64", 77, **outside) == errno.EPERM
    assert refusal(machine, "kill", 0xFFFFFFFF, 9, **outside) == errno.EPERM
    assert refusal(machine, "kill", 77, 9, **outside) is None  # Landlock decides
    assert refusal(machine, "kill", 77, 9, namespaces=False, scoped=False) == errno.EPERM


def test_other_architectures_are_killed_and_x32_is_missing():
    filter_ = program("x86_64", rules(False, True, False))
    assert decide(filter_, 39, architecture=0x40000003) == KILL
    assert decide(filter_, 0x40000000 | 39, architecture=ARCHITECTURE["x86_64"]) & 0xFFFF == errno.ENOSYS


@pytest.mark.parametrize("first", [True, False])
def test_either_of_two_conditions_refuses(first: bool):
    rule = Rule("socket", when=(When(0, "in", (1, 2)), When(1, "in", (3,))))
    filter_ = program("x86_64", [rule])
    arguments = (2, 9) if first else (9, 3)
    assert decide(filter_, 41, *arguments, architecture=ARCHITECTURE["x86_64"]) & 0xFFFF == errno.EPERM
    assert decide(filter_, 41, 9, 9, architecture=ARCHITECTURE["x86_64"]) == ALLOW
