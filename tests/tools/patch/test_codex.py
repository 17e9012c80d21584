"""The same patches by Codex's own program. It needs `apply_patch` on the path: a link of that name to the codex binary.

All valid patches give the same files. The scenarios give the same files and the same verdict, but for the listed ones.
"""

import random
import shutil
import subprocess
from pathlib import Path

import pytest

from ossia.tools.patch.parse import PatchError
from ossia.tools.patch.run import apply_patch
from ossia.tools.patch.workspace import Workspace
from tests.tools.patch.edits import edit
from tests.tools.patch.test_scenarios import FAILS, WORKS, Case

PROGRAM = shutil.which("apply_patch")
pytestmark = [pytest.mark.clients, pytest.mark.skipif(PROGRAM is None, reason="needs Codex's apply_patch")]
MORE_LENIENT = {
    "move only", "stacked headers", "a stacked header without its end", "a header repeated as the first line",
    "the header of a unified diff", "lines that are not at the end after all", "a heredoc around the patch",
    "a code fence around the patch", "no envelope", "no envelope, in a heredoc", "a BOM stays",
    "blank lines between operations are ignored", "a blank line in an added file", "move and put another in its place",
    "hunks that share context", "the note of a missing newline is ignored",
}  # fmt: skip
OTHERWISE = {
    "move to itself": "Codex deletes the file",
    "an insertion after a header": "Codex puts it at the end of the file",
    "no final newline stays so": "Codex adds one",
    "a carriage return inside a line stays": "Codex takes it for a line end",
    "a hunk of blank lines": "Codex takes it for context",
    "add over a file": "Codex overwrites it",
    # Codex leaves the changes before the failure
    "a new file as a folder": "not atomic", "delete twice": "not atomic", "a later operation fails": "not atomic",
}  # fmt: skip


def ours(root: Path, patch: str) -> bool:
    try:
        apply_patch(patch, Workspace(root))
    except PatchError:
        return False
    return True


def theirs(root: Path, patch: str) -> bool:
    return subprocess.run([str(PROGRAM), patch], cwd=root, capture_output=True, timeout=30).returncode == 0


def both(root: Path, before: dict[str, str], patch: str) -> list[tuple[bool, dict[str, bytes]]]:
    """The verdict and the files, by either program."""
    found = []
    for number, run in enumerate((ours, theirs)):
        folder = root / str(number)
        folder.mkdir()
        for name, text in before.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(text.encode())
        verdict = run(folder, patch)
        files = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        found.append((verdict, files))
        shutil.rmtree(folder)
    return found


def can_be_an_argument(patch: str) -> bool:
    return bool(patch) and "\0" not in patch and "\ud800" not in patch


@pytest.mark.parametrize(
    "case", [each for each in [*WORKS, *FAILS] if can_be_an_argument(each.patch)], ids=lambda case: case.name
)
def test_scenarios(case: Case, tmp_path: Path):
    mine, other = both(tmp_path, case.before, case.patch)
    if case.name in MORE_LENIENT:
        assert mine[0]
        assert not other[0]
    elif case.name in OTHERWISE:
        assert mine != other
    else:
        assert mine == other


def test_valid_patches_give_the_same_files(tmp_path: Path):
    """Of files without lone carriage returns, and with a final newline."""
    compared = 0
    for seed in range(4_000):
        rng = random.Random(seed)
        made = edit(rng, rng.choice(("\n", "\n", "\r\n")), may_lack_newline=False)
        if "\rb" in made.before + made.diff or "\\ No" in made.diff:
            continue
        mine, other = both(
            tmp_path, {"a": made.before}, f"*** Begin Patch\n*** Update File: a\n{made.diff}*** End Patch\n"
        )
        assert mine == other, (seed, made)
        compared += 1
    assert compared > 2_000
