"""Ignored files: the same as git's, for random patterns and paths."""

import random
import shutil
import subprocess
from pathlib import Path

import pytest

from ossia.tools.repo_browser.ignore import IgnoreFile, ignore_file, is_ignored

NAMES = ("a", "b", "ab", "abc", "x.py", "x.log", "lib", "b.log", ".hidden")
PIECES = ("a", "b", "*", "?", "a*", "*.log", "[ab]", "[!a]", "x.*", "lib", "ab", "*b*", ".*", "[a-c]*")


def pattern(rng: random.Random) -> str:
    parts = "/".join(rng.choice(PIECES) for _ in range(rng.choice((1, 1, 2, 3))))
    parts = rng.choice((parts, parts, f"**/{parts}", f"{parts}/**", f"{parts}/**/{rng.choice(PIECES)}"))
    if parts.endswith("**"):
        return parts
    return rng.choice(("", "", "", "!")) + rng.choice(("", "", "/")) + parts + rng.choice(("", "", "", "/"))


def is_path_ignored(parts: tuple[str, ...], is_folder: bool, files: list[IgnoreFile]) -> bool:
    """As the walk does it: a folder that is ignored is not entered."""
    for count in range(1, len(parts) + 1):
        above = tuple(file for file in files if file.folder == parts[: len(file.folder)] and len(file.folder) < count)
        if is_ignored(parts[:count], is_folder or count < len(parts), above):
            return True
    return False


@pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
def test_the_same_files_are_ignored_as_by_git(tmp_path: Path):
    rng = random.Random(1)
    subprocess.run(["git", "init", "-q", tmp_path], check=True)
    paths = {tuple(rng.choice(NAMES) for _ in range(rng.randint(1, 4))) for _ in range(120)}
    folders = {path[:count] for path in paths for count in range(1, len(path))}
    for path in paths - folders:
        (tmp_path.joinpath(*path)).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path.joinpath(*path)).write_text("")
    every = sorted(paths | folders)
    text = "".join(f"{'/'.join(path)}\0" for path in every)
    compared = 0
    for _ in range(60):
        top, nested = ("\n".join(pattern(rng) for _ in range(rng.randint(0, 4))) for _ in range(2))
        (tmp_path / ".gitignore").write_text(f"# comment\n\n{top}\n")
        (tmp_path / "lib").mkdir(exist_ok=True)
        (tmp_path / "lib" / ".gitignore").write_text(nested)
        files = [ignore_file(f"# comment\n\n{top}\n", ()), ignore_file(nested, ("lib",))]
        command = ["git", "-C", str(tmp_path), "check-ignore", "--no-index", "--stdin", "-z"]
        done = subprocess.run(command, input=text, capture_output=True, text=True)
        assert done.returncode in (0, 1), done.stderr
        ignored = {tuple(each.rstrip("/").split("/")) for each in done.stdout.split("\0") if each}
        for path in every:
            assert is_path_ignored(path, path in folders, files) == (path in ignored), (top, nested, path)
            compared += 1
    assert compared > 5_000


def test_hostile_patterns_take_little_time():
    """A pattern that would take for ever with backtracking."""
    rules = (ignore_file("*a" * 100 + "b\n" + "**/" * 90 + "b\n", ()),)
    assert not is_ignored(("a" * 255,) * 20, False, rules)


def test_folders_of_tools_are_always_ignored():
    assert is_ignored(("x", "node_modules"), True, ())
    assert not is_ignored(("x", "node_modules"), False, ())
