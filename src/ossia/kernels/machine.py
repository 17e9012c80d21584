"""Memory and cores that this process may use, within the limits of its containers.

In: Linux cgroup files, version 1 or 2, and the system's own counts. Out: bytes and cores. psutil alone reports the
machine's limits, not the container's.
"""

import math
import os
from collections.abc import Iterator
from pathlib import Path

import psutil

_SELF, _FILE_SYSTEM = Path("/proc/self"), Path("/")
_UNLIMITED = 1 << 60  # cgroup v1 writes a number near 2^63 for "no limit"
_PERIOD = 100_000  # microseconds, the kernel's default


def available_memory() -> int:
    """Bytes that can be allocated now, within the tightest enclosing cgroup.

    The system's file cache counts as free, because the kernel drops it under memory pressure.
    """
    return int(min(psutil.virtual_memory().available, cgroup_memory()))


def is_memory_limited() -> bool:
    """Whether a cgroup leaves less memory than the machine has."""
    return cgroup_memory() < psutil.virtual_memory().available


def usable_cores() -> int:
    """Cores that this process may use at a time, by CPU affinity and by the quotas of all enclosing cgroups."""
    cores = psutil.cpu_count(logical=False) or os.cpu_count() or 1
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else cores
    return max(1, min(cores, allowed, math.ceil(min(cgroup_cores(), cores))))


def cgroup_memory(process: Path = _SELF, root: Path = _FILE_SYSTEM) -> float:
    """Free bytes in the tightest enclosing cgroup; infinite if none limits memory."""
    found = [_left_v1(group) for group in _groups("memory", process, root)]
    found += [_left_v2(group) for group in _groups("", process, root)]
    return min(found, default=math.inf)


def cgroup_cores(process: Path = _SELF, root: Path = _FILE_SYSTEM) -> float:
    """The smallest CPU quota of all enclosing cgroups, in cores; infinite if there is none."""
    found = [_quota_v1(group) for group in _groups("cpu", process, root)]
    found += [_quota_v2(group) for group in _groups("", process, root)]
    return min(found, default=math.inf)


def _groups(controller: str, process: Path, root: Path) -> Iterator[Path]:
    """The mounted folders of this process's cgroup and of its parents. controller "" is version 2.

    A container may mount the whole tree, or only its own part of it as the root.
    """
    own = _own_group(controller, process)
    if own is None:
        return
    for mounted, point in _mounts(controller, process):
        inner = Path(own.removeprefix(mounted.rstrip("/")).lstrip("/")) if _is_within(own, mounted) else Path()
        folder = Path(root, point.lstrip("/"), *(part for part in inner.parts if part != ".."))
        top = root / point.lstrip("/")
        while not folder.is_dir() and folder != top:
            folder = folder.parent
        yield from (each for each in (folder, *folder.parents) if each.is_relative_to(top))


def _own_group(controller: str, process: Path) -> str | None:
    for line in _lines(process / "cgroup"):
        number, _, rest = line.partition(":")
        names, _, path = rest.partition(":")
        if (controller in names.split(",")) if controller else (number == "0" and not names):
            return path
    return None


def _mounts(controller: str, process: Path) -> Iterator[tuple[str, str]]:
    """The root within the hierarchy, and the mount point, of each mount that has the controller."""
    for line in _lines(process / "mountinfo"):
        before, _, after = line.partition(" - ")
        place, system = before.split(), after.split()
        if len(place) < 5 or len(system) < 3:
            continue
        is_wanted = system[0] == "cgroup2" if not controller else controller in system[2].split(",")
        if is_wanted and system[0] in ("cgroup", "cgroup2"):
            yield _unescaped(place[3]), _unescaped(place[4])


def _is_within(path: str, root: str) -> bool:
    return root == "/" or path == root or path.startswith(root.rstrip("/") + "/")


def _left_v1(group: Path) -> float:
    limit, used = _number(group / "memory.limit_in_bytes"), _number(group / "memory.usage_in_bytes")
    if limit >= _UNLIMITED:
        return math.inf
    return _left(limit, used, group, ("total_inactive_file", "total_active_file"))


def _left_v2(group: Path) -> float:
    # above memory.high the kernel throttles a process to a standstill
    limit = min(_number(group / "memory.max"), _number(group / "memory.high"))
    return _left(limit, _number(group / "memory.current"), group, ("inactive_file", "active_file", "slab_reclaimable"))


def _left(limit: float, used: float, group: Path, dropped: tuple[str, ...]) -> float:
    if math.isinf(limit):
        return limit
    counts = dict(line.split(maxsplit=1) for line in _lines(group / "memory.stat") if " " in line)
    cache = sum(int(counts[name]) for name in dropped if counts.get(name, "").isdecimal())
    return max(0.0, limit - max(0.0, (0.0 if math.isinf(used) else used) - cache))


def _quota_v1(group: Path) -> float:
    quota, period = _number(group / "cpu.cfs_quota_us"), _number(group / "cpu.cfs_period_us")
    return math.inf if math.isinf(quota) else quota / (_PERIOD if math.isinf(period) or not period else period)


def _quota_v2(group: Path) -> float:
    words = next(iter(_lines(group / "cpu.max")), "").split()
    if not words or not words[0].isdecimal():
        return math.inf
    period = int(words[1]) if len(words) > 1 and words[1].isdecimal() else _PERIOD
    return int(words[0]) / (period or _PERIOD)


def _number(path: Path) -> float:
    """The number in a file; infinite for "max", -1 or a missing file."""
    text = next(iter(_lines(path)), "").strip()
    return float(text) if text.isdecimal() else math.inf


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text("utf-8", "replace").splitlines()
    except OSError:
        return []


def _unescaped(path: str) -> str:
    r"""Decode octal escapes: mountinfo writes a space as \040."""
    for code, character in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        path = path.replace(code, character)
    return path
