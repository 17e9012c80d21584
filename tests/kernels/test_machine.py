"""Limits of containers, read from fake cgroup trees of both versions: memory that is left, and cores by quota."""

import contextlib
import math
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ossia.kernels import machine
from ossia.kernels.machine import available_memory, cgroup_cores, cgroup_memory, usable_cores
from tests.support.checkpoints import TINY, tiny_checkpoint

GIB = 1 << 30
V1, V2 = "sys/fs/cgroup/memory", "sys/fs/cgroup"


def write(folder: Path, **files: object) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, value in files.items():
        (folder / name.replace("__", ".")).write_text(f"{value}\n")


def v2(folder: Path, limit: object, used: int = 0, stat: str = "anon 0", **more: object) -> None:
    write(folder, memory__max=limit, memory__current=used, memory__stat=stat, **more)


def v1(folder: Path, limit: int, used: int = 0, stat: str = "rss 0") -> None:
    write(folder, memory__limit_in_bytes=limit, memory__usage_in_bytes=used, memory__stat=stat)


def process(root: Path, group: str, mounts: str) -> tuple[Path, Path]:
    """/proc/self of a process in this cgroup, and the root that its mount points are below."""
    write(root / "proc", cgroup=group, mountinfo=mounts)
    return root / "proc", root


def whole(root: Path, own: str) -> tuple[Path, Path]:
    return process(root, f"0::{own}", "30 23 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw")


def test_M4_the_tightest_of_nested_groups_counts(tmp_path: Path):
    group = tmp_path / V2
    v2(group / "kube", 8 * GIB, 5 * GIB)
    v2(group / "kube" / "pod", 6 * GIB, GIB)
    v2(group / "kube" / "pod" / "box", "max", GIB)
    assert cgroup_memory(*whole(tmp_path, "/kube/pod/box")) == 3 * GIB
    v2(group / "kube" / "pod" / "box", 2 * GIB, GIB)
    assert cgroup_memory(*whole(tmp_path, "/kube/pod/box")) == GIB
    assert cgroup_memory(*whole(tmp_path, "/kube")) == 3 * GIB
    assert cgroup_memory(*whole(tmp_path, "/")) == math.inf


def test_M4_cached_files_count_as_free(tmp_path: Path):
    v2(tmp_path / V2 / "a", 1000, 700, "anon 400\nactive_file 50\ninactive_file 150\nslab_reclaimable 10\nfile 200")
    assert cgroup_memory(*whole(tmp_path, "/a")) == 510
    v2(tmp_path / V2 / "a", 1000, 100, "active_file 90\ninactive_file 90")  # counts are taken at different moments
    assert cgroup_memory(*whole(tmp_path, "/a")) == 1000
    v2(tmp_path / V2 / "a", 1000, 1700)
    assert cgroup_memory(*whole(tmp_path, "/a")) == 0


def test_M4_above_memory_high_a_process_stands_still(tmp_path: Path):
    v2(tmp_path / V2 / "a", 8 * GIB, 0, memory__high=3 * GIB)
    assert cgroup_memory(*whole(tmp_path, "/a")) == 3 * GIB


def test_M4_version_1(tmp_path: Path):
    mounts = "36 25 0:31 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory"
    seen = process(tmp_path, "5:cpu,cpuacct:/x\n4:memory:/docker/abc\n1:name=systemd:/", mounts)
    v1(tmp_path / V1, 9223372036854771712)
    assert cgroup_memory(*seen) == math.inf
    v1(
        tmp_path / V1 / "docker" / "abc",
        4 * GIB,
        3 * GIB,
        f"total_inactive_file {GIB}\ntotal_active_file 5\ninactive_file 7",
    )
    assert cgroup_memory(*seen) == 2 * GIB + 5
    v1(tmp_path / V1 / "docker", GIB)
    assert cgroup_memory(*seen) == GIB


def test_M4_a_container_that_sees_its_own_part_alone(tmp_path: Path):
    v1(tmp_path / V1, 4 * GIB, GIB)  # the container's group is mounted as the root of what it sees
    mounts = "36 25 0:31 /docker/abc /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory"
    assert cgroup_memory(*process(tmp_path, "4:memory:/docker/abc", mounts)) == 3 * GIB
    v2(tmp_path / V2, 2 * GIB)  # a cgroup namespace: its own group is "/", another's begins with /..
    assert cgroup_memory(*whole(tmp_path, "/")) == 2 * GIB
    assert cgroup_memory(*whole(tmp_path, "/../../elsewhere")) == 2 * GIB


def test_M4_both_versions_side_by_side_and_a_mount_point_with_a_space(tmp_path: Path):
    v1(tmp_path / "c g" / "memory" / "a", 5 * GIB)
    v2(tmp_path / V2 / "unified" / "a", 4 * GIB)
    mounts = (
        r"36 25 0:31 / /c\040g/memory rw - cgroup cgroup rw,memory"
        "\n37 25 0:32 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw"
    )
    assert cgroup_memory(*process(tmp_path, "4:memory:/a\n0::/a", mounts)) == 4 * GIB


@pytest.mark.parametrize("text", ["", "garbage", "0::", "::::\n\n0:", "0::/a"])
@pytest.mark.parametrize("mounts", ["", "garbage - -", " - cgroup2", "1 2 3 / /sys/fs/cgroup - cgroup2 x y"])
def test_files_that_say_nothing_limit_nothing(tmp_path: Path, text: str, mounts: str):
    write(tmp_path / V2 / "a", memory__max="what", cpu__max="")
    seen = process(tmp_path, text, mounts)
    assert (cgroup_memory(*seen), cgroup_cores(*seen)) == (math.inf, math.inf)
    assert cgroup_memory(tmp_path / "nowhere", tmp_path) == math.inf


@pytest.mark.parametrize(
    ("outer", "inner", "cores"),
    [("max 100000", "200000 100000", 2), ("150000 100000", "400000 100000", 1.5), ("50000", "max", 0.5),
     ("max 100000", "max 100000", math.inf)],
)  # fmt: skip
def test_M9_quotas_of_version_2(tmp_path: Path, outer: str, inner: str, cores: float):
    write(tmp_path / V2 / "pod", cpu__max=outer)
    write(tmp_path / V2 / "pod" / "box", cpu__max=inner)
    assert cgroup_cores(*whole(tmp_path, "/pod/box")) == cores


def test_M9_quotas_of_version_1(tmp_path: Path):
    mounts = "36 25 0:31 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct"
    seen = process(tmp_path, "5:cpu,cpuacct:/pod/box", mounts)
    group = tmp_path / "sys/fs/cgroup/cpu,cpuacct/pod"
    write(group / "box", cpu__cfs_quota_us=-1, cpu__cfs_period_us=100000)
    assert cgroup_cores(*seen) == math.inf
    write(group, cpu__cfs_quota_us=250000, cpu__cfs_period_us=100000)
    assert cgroup_cores(*seen) == 2.5
    write(group / "box", cpu__cfs_quota_us=5000, cpu__cfs_period_us=10000)
    assert cgroup_cores(*seen) == 0.5


@pytest.mark.parametrize(("quota", "threads"), [(0.5, 1), (1.0, 1), (1.5, 2), (2.2, 3), (3.0, 3), (math.inf, 4)])
def test_M9_threads_are_the_quota_rounded_up(monkeypatch: pytest.MonkeyPatch, quota: float, threads: int):
    monkeypatch.setattr(machine, "cgroup_cores", lambda: quota)
    monkeypatch.setattr(machine.psutil, "cpu_count", lambda logical=True: 4)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    assert usable_cores() == threads
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3}, raising=False)
    assert usable_cores() == 1


def test_M4_what_is_available_is_the_least(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(machine, "cgroup_memory", lambda: 1e6)
    assert available_memory() == 1_000_000
    monkeypatch.setattr(machine, "cgroup_memory", lambda: math.inf)
    assert available_memory() > 1_000_000


GROUPS = Path("/sys/fs/cgroup/memory")


@pytest.mark.skipif(
    not os.access(GROUPS / "memory.limit_in_bytes", os.W_OK), reason="needs root and cgroups of version 1"
)
def test_M4_a_real_group(tmp_path: Path):
    model = tiny_checkpoint(tmp_path / "model", TINY)
    group = GROUPS / f"ossia-test-{os.getpid()}"
    try:
        group.mkdir()
    except OSError:
        pytest.skip("no cgroup can be made here")
    try:
        (group / "memory.limit_in_bytes").write_text(str(200 << 20))
        code = "import os, sys; open(sys.argv[1], 'w').write(str(os.getpid())); sys.argv = sys.argv[1:]; from ossia.cli import main; main()"
        command = [sys.executable, "-c", code, str(group / "cgroup.procs"), "bench", "-m", str(model), "--gen", "1"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=200)
        assert done.returncode == 1, done
        assert done.stderr.count("\n") == 1
        assert "does not fit the memory: it needs 0." in done.stderr
        assert "GiB are free in this container" in done.stderr
    finally:
        for _ in range(50):  # the kernel takes a moment to let a group of no process go
            with contextlib.suppress(OSError):
                group.rmdir()
                break
            time.sleep(0.1)
