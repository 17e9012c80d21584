"""The program's file system: a new root of binds, made inside a new mount namespace.

In: a `Plan`. Out: nothing; afterwards "/" holds the system read-only, /mnt/data writable, /tmp, /proc and few devices.
"""

import os
import stat

from ossia.tools.sandbox.linux import calls
from ossia.tools.sandbox.linux.mapped import bind_mapped, user_mapping
from ossia.tools.sandbox.linux.plan import DATA, DEVICES, Plan

_OLD, _NEW = "/old", "/new"
_QUIET = calls.NOSUID | calls.NODEV
# As container runtimes do: settings of the kernel are read-only, what shows the host's memory or keys is empty.
_READ_ONLY = ("/proc/sys", "/proc/irq", "/proc/bus", "/proc/fs", "/proc/sysrq-trigger")
_EMPTY_FILES = ("/proc/kcore", "/proc/keys", "/proc/timer_list", "/proc/sched_debug", "/proc/kallsyms", "/proc/kmsg",
                "/proc/latency_stats")  # fmt: skip
_EMPTY_FOLDERS = ("/proc/acpi", "/proc/scsi")


def enter_new_root(plan: Plan) -> None:
    """Make the root and move into it; the host's files are gone from the mount namespace."""
    mapping = user_mapping(plan.user) if plan.of_root else None
    calls.mount(None, "/", None, calls.REC | calls.PRIVATE)
    calls.mount("tmpfs", "/tmp", "tmpfs", _QUIET, "size=4m,mode=755")
    os.mkdir("/tmp" + _OLD)
    os.mkdir("/tmp" + _NEW)
    calls.pivot_root("/tmp", "/tmp" + _OLD)
    os.chdir("/")
    calls.mount("tmpfs", _NEW, "tmpfs", _QUIET, "size=16m,mode=755")
    for path in ("/tmp", "/proc", "/dev", "/etc", "/run", "/var/tmp", DATA):
        os.makedirs(_NEW + path)
    calls.mount("tmpfs", _NEW + "/tmp", "tmpfs", _QUIET, f"size={plan.tmp_bytes},mode=1777")
    for path in sorted(plan.paths):
        _show(path)
    if mapping is None:
        _bind(_OLD + plan.data, _NEW + DATA, _QUIET)
    else:
        bind_mapped(_OLD + plan.data, _NEW + DATA, mapping)
    _devices(plan)
    calls.mount("proc", _NEW + "/proc", "proc", _QUIET | calls.NOEXEC)
    _accounts(plan)
    os.chdir(_NEW)
    calls.pivot_root(".", ".")  # the old root is now on top of the new one
    calls.unmount(".")
    os.chdir("/")
    _cover_proc()
    calls.mount(None, "/", None, calls.BIND | calls.REMOUNT | calls.RDONLY | _QUIET)


def _show(path: str) -> None:
    """Bind one path read-only at its own place; a link is made again, and what it names is shown too."""
    source = _OLD + path
    if os.path.lexists(_NEW + path) or not os.path.lexists(source):
        return
    _folders(os.path.dirname(path))
    if os.path.islink(source):
        os.symlink(os.readlink(source), _NEW + path)
        return
    if os.path.isdir(source):
        os.mkdir(_NEW + path)
    else:
        os.close(os.open(_NEW + path, os.O_CREAT | os.O_WRONLY, 0o644))
    _bind(source, _NEW + path, calls.RDONLY | _QUIET)


def _folders(path: str) -> None:
    """The folders that lead to a path; on a host where one of them is a link, the same link."""
    at = ""
    for name in path.split("/")[1:]:
        at += "/" + name
        if not os.path.lexists(_NEW + at):
            if os.path.islink(_OLD + at):
                os.symlink(os.readlink(_OLD + at), _NEW + at)
            else:
                os.mkdir(_NEW + at)


def _bind(source: str, target: str, flags: int) -> None:
    calls.mount(source, target, None, calls.BIND | calls.REC)
    try:
        calls.mount_attributes(target, flags)
    except OSError:  # before Linux 5.12: mount by mount
        for place in _mounts_in(target):
            calls.mount(None, place, None, calls.BIND | calls.REMOUNT | flags | _locked(place))


def _mounts_in(target: str) -> list[str]:
    with open(_OLD + "/proc/self/mountinfo", encoding="utf-8") as lines:
        places = [line.split()[4].encode().decode("unicode_escape") for line in lines]
    return [place for place in places if place == target or place.startswith(target + "/")]


def _locked(place: str) -> int:
    """Flags that a mount has already: a user namespace may not take them away."""
    found = os.statvfs(place).f_flag
    return found & (os.ST_NOSUID | os.ST_NODEV | os.ST_NOEXEC | os.ST_RDONLY)


def _devices(plan: Plan) -> None:
    for name in DEVICES:
        os.close(os.open(f"{_NEW}/dev/{name}", os.O_CREAT | os.O_WRONLY, 0o666))
        calls.mount(f"{_OLD}/dev/{name}", f"{_NEW}/dev/{name}", None, calls.BIND)
    for name, target in (("fd", "fd"), ("stdin", "fd/0"), ("stdout", "fd/1"), ("stderr", "fd/2")):
        os.symlink(f"/proc/self/{target}", f"{_NEW}/dev/{name}")
    os.mkdir(_NEW + "/dev/shm")
    calls.mount("tmpfs", _NEW + "/dev/shm", "tmpfs", _QUIET, f"size={plan.tmp_bytes},mode=1777")


def _accounts(plan: Plan) -> None:
    """A passwd and group file with the program's own user, for programs that look up names."""
    user = plan.user
    lines = {"passwd": f"sandbox:x:{user}:{user}:sandbox:{DATA}:/bin/sh\n", "group": f"sandbox:x:{user}:\n"}
    for name, text in lines.items():
        with open(f"{_NEW}/etc/{name}", "w", encoding="utf-8") as file:
            file.write(text)


def _cover_proc() -> None:
    for path in _READ_ONLY:
        if os.path.lexists(path):
            calls.mount(path, path, None, calls.BIND | calls.REC)
            calls.mount(None, path, None, calls.BIND | calls.REMOUNT | calls.RDONLY | _QUIET | calls.NOEXEC)
    for path in _EMPTY_FILES:
        if os.path.lexists(path) and stat.S_ISREG(os.lstat(path).st_mode):
            calls.mount("/dev/null", path, None, calls.BIND)
    for path in _EMPTY_FOLDERS:
        if os.path.isdir(path):
            calls.mount("tmpfs", path, "tmpfs", calls.RDONLY | _QUIET, "size=0,mode=555")
