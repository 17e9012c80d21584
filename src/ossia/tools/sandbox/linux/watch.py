"""What a sandbox's processes use together: their number, their memory, and the disk space that they added.

In: where the processes are, and the plan's limits. Out: `Watch.exceeded`, the name of a limit that was passed, or None.
"""

import os
import time
from collections.abc import Callable, Iterator

from ossia.tools.sandbox.linux.plan import Plan

_PAGE = os.sysconf("SC_PAGE_SIZE")
_HIDDEN_SECONDS = 1.0
_DISK_SHARE = 50  # a look at all files, which may be many, is followed by a pause that many times as long


class Watch:
    """Looks at the processes whenever it is asked. processes: lists their ids; folders: where they may write."""

    def __init__(self, plan: Plan, processes: Callable[[], list[int]], folders: list[str]) -> None:
        self._plan, self._processes, self._folders = plan, processes, folders
        self._ends = time.monotonic() + plan.seconds if plan.seconds else None
        self._free = self._first_free = _free(folders[0])
        self._next_look = 0.0
        self._hidden: dict[int, float] = {}  # processes whose files could not be seen, and since when
        self._used = usage(folders, 4 * plan.inodes)

    def exceeded(self) -> str | None:
        if self._ends and time.monotonic() > self._ends:
            return "seconds"
        running = self._processes()
        if len(running) > self._plan.processes:
            return "processes"
        if self._memory(running):
            return "memory"
        return "disk" if self._disk(running) else None

    def _memory(self, running: list[int]) -> bool:
        limit = self._plan.memory_bytes
        if sum(map(_resident, running)) <= limit:
            return False
        return sum(map(_proportional, running)) > limit  # shared pages were counted once for each process

    def _disk(self, running: list[int]) -> bool:
        """Counts the folders' files whenever the file system changed, but for at most a fiftieth of the time."""
        now, free = time.monotonic(), _free(self._folders[0])
        if now < self._next_look or free == self._free:
            return False
        plan = self._plan
        size, files = usage(self._folders, self._used[1] + plan.inodes + 1)
        if self._first_free - free > plan.disk_bytes:  # maybe by files that have no name any more
            size += self._unlinked(running, os.stat(self._folders[0]).st_dev)
        self._free, self._next_look = free, now + _DISK_SHARE * (time.monotonic() - now)
        return size - self._used[0] > plan.disk_bytes or files - self._used[1] > plan.inodes

    def _unlinked(self, running: list[int], device: int) -> int:
        """Bytes of open files without a name. A process that hides its files for long is taken to have many."""
        sizes = {pid: _unlinked(pid, device) for pid in running}
        now = time.monotonic()
        self._hidden = {pid: self._hidden.get(pid, now) for pid, size in sizes.items() if size is None}
        if any(now - since > _HIDDEN_SECONDS for since in self._hidden.values()):
            return 1 << 62
        return sum(filter(None, sizes.values()))


def own_processes() -> list[int]:
    """All processes of this pid namespace but this one."""
    return [pid for name in os.listdir("/proc") if name.isdigit() and (pid := int(name)) != 1]


def descendants(of: int) -> list[int]:
    """The processes below this one; orphans are among them if this process adopts them."""
    found: list[int] = []
    waiting = [of]
    children = _listed if os.path.exists(f"/proc/{of}/task/{of}/children") else _by_parent()
    while waiting:
        for child in children(waiting.pop()):
            found.append(child)
            waiting.append(child)
    return found


def _listed(pid: int) -> Iterator[int]:
    try:
        for thread in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{thread}/children", encoding="ascii") as file:
                yield from map(int, file.read().split())
    except OSError:
        return  # it ended


def _by_parent() -> Callable[[int], list[int]]:
    """The same for kernels that do not list children, from one look at all processes."""
    found: dict[int, list[int]] = {}
    for name in filter(str.isdigit, os.listdir("/proc") if os.path.isdir("/proc") else ()):
        try:
            with open(f"/proc/{name}/stat", "rb") as file:
                parent = int(file.read().rpartition(b")")[2].split()[1])
        except OSError:
            continue
        found.setdefault(parent, []).append(int(name))
    return lambda pid: found.get(pid, [])


def threads_of(user: int) -> int:
    """How many threads this user runs now: RLIMIT_NPROC counts them all."""
    count = 0
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            if os.stat(f"/proc/{name}").st_uid == user:
                count += len(os.listdir(f"/proc/{name}/task"))
        except OSError:
            continue
    return count


def _resident(pid: int) -> int:
    try:
        with open(f"/proc/{pid}/statm", encoding="ascii") as file:
            return int(file.read().split()[1]) * _PAGE
    except OSError:
        return 0


def _proportional(pid: int) -> int:
    try:
        with open(f"/proc/{pid}/smaps_rollup", encoding="ascii") as file:
            return next(int(line.split()[1]) << 10 for line in file if line.startswith("Pss:"))
    except (OSError, StopIteration):
        return _resident(pid)


def _unlinked(pid: int, device: int) -> int | None:
    """Bytes of a process's open files on this device that have no name; None if they cannot be seen."""
    size = 0
    try:
        for name in os.listdir(f"/proc/{pid}/fd"):
            found = os.stat(f"/proc/{pid}/fd/{name}")
            if found.st_nlink == 0 and found.st_dev == device:
                size += found.st_blocks * 512
    except PermissionError:
        return None  # as it also is for a moment when a program starts
    except OSError:
        return size  # it ended, or closed a file
    return size


def _free(folder: str) -> int:
    found = os.statvfs(folder)
    return found.f_bavail * found.f_frsize


def usage(folders: list[str], most: int) -> tuple[int, int]:
    """Bytes on disk and number of files below some folders, links not followed; counts at most `most` files."""
    size, count, waiting = 0, 0, [*folders]
    while waiting and count < most:
        try:
            with os.scandir(waiting.pop()) as entries:
                for entry in entries:
                    count += 1
                    size += entry.stat(follow_symlinks=False).st_blocks * 512
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(entry.path)
        except OSError:
            continue  # a folder that was removed meanwhile, or that we may not read
    return size, count
