"""Writing is all or nothing: on errors, full disks, other programs that write, and when the process is killed."""

import errno
import os
import random
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ossia.tools.patch.parse import PatchError, parse_patch
from ossia.tools.patch.plan import FileChange, plan
from ossia.tools.patch.run import apply_patch
from ossia.tools.patch.workspace import Folder, Workspace
from ossia.tools.patch.write import TEMPORARY, apply_changes

PATCH = (
    "*** Begin Patch\n*** Update File: a\n@@\n-1\n+2\n*** Add File: new/deep/b\n+n\n*** Delete File: c\n"
    "*** Update File: d\n*** Move to: moved/d\n@@\n-1\n+2\n*** End Patch\n"
)
AFTER = {"a": "2\n", "moved/d": "2\n", "new/deep/b": "n\n"}
BEFORE = {"a": "1\n", "c": "1\n", "d": "1\n"}


def files_in(root: Path) -> dict[str, str]:
    return {str(p.relative_to(root)): p.read_text() for p in sorted(root.rglob("*")) if p.is_file()}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name, text in BEFORE.items():
        (tmp_path / name).write_text(text)
    return tmp_path


@pytest.mark.parametrize("handles", [True, False])
def test_all_kinds_of_operations(root: Path, handles: bool):
    apply_patch(PATCH, Workspace(root, handles))
    assert files_in(root) == AFTER


@pytest.mark.skipif(os.name == "nt", reason="permissions")
def test_permissions_are_kept(root: Path):
    (root / "a").chmod(0o751)
    (root / "d").chmod(0o640)
    apply_patch(PATCH, Workspace(root))
    modes = {name: stat.S_IMODE((root / name).stat().st_mode) for name in ("a", "moved/d")}
    assert modes == {"a": 0o751, "moved/d": 0o640}


@pytest.mark.parametrize("name", ["create", "replace", "link", "unlink"])
@pytest.mark.parametrize("number", range(8))
def test_a_failure_at_any_step_changes_nothing(root: Path, name: str, number: int, monkeypatch: pytest.MonkeyPatch):
    """The disk is full, or an operation is not permitted, once. What follows works again."""
    real, count = getattr(Folder, name), 0

    def failing(self: Folder, *arguments: object) -> object:
        nonlocal count
        count += 1
        if count == number + 1:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(self, *arguments)

    monkeypatch.setattr(Folder, name, failing)
    error = ""
    try:
        apply_patch(PATCH, Workspace(root))
    except PatchError as raised:
        error = str(raised)
    kept = {path: text for path, text in files_in(root).items() if TEMPORARY not in path}
    if error:
        assert "No space left on device" in error
        assert files_in(root) == BEFORE
        assert sorted(path.name for path in root.iterdir()) == sorted(BEFORE)
    else:  # only the clean-up failed, or a copy served as the backup
        assert kept == AFTER


@pytest.mark.skipif(os.name == "nt" or not hasattr(os, "geteuid") or os.geteuid() != 0, reason="mounts a small disk")
def test_a_full_disk_changes_nothing(tmp_path: Path):
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "none", disk], capture_output=True).returncode:
        pytest.skip("cannot mount a tmpfs")
    try:
        for name in "abcd":
            (disk / name).write_text("1\n" * 10_000)
        before = files_in(disk)
        body = "".join(f"*** Update File: {name}\n@@\n-1\n+{'2' * 50_000}\n" for name in "abcd")
        with pytest.raises(PatchError, match=r"cannot be written .*nothing was changed"):
            apply_patch(f"*** Begin Patch\n*** Add File: new/x\n+1\n{body}*** End Patch\n", Workspace(disk))
        assert files_in(disk) == before
        assert sorted(path.name for path in disk.iterdir()) == list("abcd")
    finally:
        subprocess.run(["umount", disk], check=True)


def test_a_file_that_changed_since_the_plan_is_not_overwritten(root: Path):
    workspace = Workspace(root)
    planned = plan(parse_patch(PATCH), workspace.read)
    (root / "d").write_text("another\n")
    with pytest.raises(PatchError, match="'d' was changed by another program"):
        apply_changes(planned.changes, workspace)
    assert files_in(root) == {**BEFORE, "d": "another\n"}


def test_a_file_that_appeared_since_the_plan_is_not_overwritten(root: Path):
    workspace = Workspace(root)
    planned = plan(parse_patch(PATCH), workspace.read)
    (root / "moved").mkdir()
    (root / "moved" / "d").write_text("another\n")
    with pytest.raises(PatchError, match="'moved/d' was changed by another program"):
        apply_changes(planned.changes, workspace)
    assert files_in(root) == {**BEFORE, "moved/d": "another\n"}


@pytest.mark.skipif(os.name == "nt", reason="hard links")
def test_two_paths_of_one_file_are_refused(root: Path, monkeypatch: pytest.MonkeyPatch):
    """As on a file system that ignores case: here both names are looked up as one."""
    real = Folder.at
    monkeypatch.setattr(Folder, "at", lambda self, name: real(self, name.lower() if len(name) == 1 else name))
    changes = (FileChange("a", b"1\n", b"2\n"), FileChange("A", b"1\n", None))
    with pytest.raises(PatchError, match="'a' and 'A' are the same file here"):
        apply_changes(changes, Workspace(root))
    assert files_in(root) == BEFORE


@pytest.mark.skipif(os.name == "nt", reason="signals")
def test_a_killed_process_leaves_each_file_whole(tmp_path: Path):
    """A process that applies patches without end is killed at random times."""
    names, size, rng = [f"f{n}" for n in range(8)], 40_000, random.Random(0)
    for name in names:
        (tmp_path / name).write_text("0" * size + "\n")
    program = (
        "import sys\nfrom ossia.tools.patch.run import apply_patch\nfrom ossia.tools.patch.workspace import Workspace\n"
        "n = int(open('f0').read()[0])\nprint('ready', flush=True)\n"
        "while True:\n"
        "    m = (n + 1) % 10\n"
        f"    body = ''.join(f'*** Delete File: {{name}}\\n*** Add File: {{name}}\\n+{{str(m) * {size}}}\\n' for name in {names!r})\n"
        "    apply_patch('*** Begin Patch\\n' + body + '*** End Patch', Workspace('.'))\n"
        "    n = m\n"
    )
    seen = set()
    for _ in range(12):
        process = subprocess.Popen([sys.executable, "-c", program], cwd=tmp_path, stdout=subprocess.PIPE)
        assert process.stdout
        process.stdout.readline()
        time.sleep(rng.uniform(0.0, 0.05))
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        for name in names:
            text = (tmp_path / name).read_text()
            assert len(text) == size + 1, name
            assert text == text[0] * size + "\n", name
            seen.add(text[0])
        others = {path.name for path in tmp_path.iterdir()} - set(names)
        assert all(name.startswith(TEMPORARY) for name in others)
    assert len(seen) > 1
