"""Which files of a repository are not shown: .gitignore files, and folders of version control and of build tools.

In: the text of .gitignore files and paths. Out: whether a path is ignored. Matching takes time linear in the path for
each pattern.
"""

import fnmatch
import re
from functools import lru_cache
from typing import NamedTuple

MAX_PATTERNS = 1_000  # of one file
MAX_PATTERN = 300  # characters
SKIPPED = {
    ".git", ".hg", ".svn", ".jj", "node_modules", "__pycache__", ".venv", "venv", ".tox", ".nox", ".mypy_cache", ".pytest_cache",
    ".ruff_cache", ".eggs", ".gradle", ".idea", ".cache", "bower_components",
}  # fmt: skip


class IgnorePattern(NamedTuple):
    """One line of a .gitignore file. parts: of the pattern, from the folder of the file."""

    parts: tuple[str, ...]
    negated: bool
    folders_only: bool


class IgnoreFile(NamedTuple):
    """The patterns of the .gitignore file in one folder."""

    folder: tuple[str, ...]
    patterns: tuple[IgnorePattern, ...]


def ignore_file(text: str, folder: tuple[str, ...]) -> IgnoreFile:
    """Read a .gitignore file. Lines that are too long are left out."""
    found = (_pattern(line) for line in text.splitlines()[: 2 * MAX_PATTERNS])
    return IgnoreFile(folder, tuple(each for each in found if each is not None)[:MAX_PATTERNS])


def _pattern(line: str) -> IgnorePattern | None:
    line = line.rstrip()
    if not line or line.startswith("#") or len(line) > MAX_PATTERN:
        return None
    negated = line.startswith("!")
    line = line.removeprefix("!").removeprefix("\\")
    folders_only = line.endswith("/")
    anchored = "/" in line.rstrip("/")
    parts = tuple(part for part in line.split("/") if part)
    if not parts:
        return None
    if parts[-1] == "**":
        parts = (*parts, "*")  # all that is inside, but not the folder itself
    return IgnorePattern(parts if anchored else ("**", *parts), negated, folders_only)


def is_ignored(parts: tuple[str, ...], is_folder: bool, files: tuple[IgnoreFile, ...]) -> bool:
    """Whether a path is ignored; the folders above it are not. files: of these folders, from the root."""
    if is_folder and parts[-1] in SKIPPED:
        return True
    ignored = False
    for file in files:
        inside = parts[len(file.folder) :]
        for pattern in file.patterns:
            if (
                pattern.negated == ignored
                and (is_folder or not pattern.folders_only)
                and _matches(pattern.parts, inside)
            ):
                ignored = not pattern.negated
    return ignored


def _matches(pattern: tuple[str, ...], parts: tuple[str, ...]) -> bool:
    reached = {0}  # how many parts of the pattern are used
    for part in parts:
        reached = _with_stars(pattern, reached)
        stay = {at for at in reached if at < len(pattern) and pattern[at] == "**"}
        step = {at + 1 for at in reached - stay if at < len(pattern) and _compiled(pattern[at]).fullmatch(part)}
        reached = stay | step
        if not reached:
            return False
    return len(pattern) in reached


def _with_stars(pattern: tuple[str, ...], reached: set[int]) -> set[int]:
    """Also the places after a "**" that stands for no folder."""
    found = set(reached)
    for at in sorted(reached):
        while at < len(pattern) and pattern[at] == "**":
            at += 1
            found.add(at)
    return found


@lru_cache(maxsize=4_096)
def _compiled(glob: str) -> re.Pattern[str]:
    return re.compile(fnmatch.translate(glob))
