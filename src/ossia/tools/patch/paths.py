"""Checks of a path that a model names: it is relative, inside the folder, and means the same on every system.

In: the text of a path. Out: its parts, or a `WorkspaceError`. Nothing is looked up: `workspace.py` opens the files.
"""

import re
import unicodedata

MAX_PATH = 1_024  # characters
MAX_PART = 255  # bytes of UTF-8
DRIVE = re.compile(r"[A-Za-z]:")
REPOSITORY = {".git", "git~1"}  # the second is its short name on Windows
RESERVED = re.compile(r"(con|prn|aux|nul|conin\$|conout\$|com[0-9¹²³]|lpt[0-9¹²³])( *\..*)?", re.I)
MISLEADING = re.compile("[\u202a-\u202e\u2066-\u2069]")  # these change the direction of the shown text
FORMAT_CHARACTERS = "Cf"  # invisible: some file systems ignore them


class WorkspaceError(ValueError):
    """A path that is refused, or a file that cannot be used. The message names it."""


def checked_path(path: str, *, writing: bool = False) -> tuple[str, ...]:
    """The parts of a relative path; () for the folder itself. writing: also refuses names that Windows cannot hold.

    Raises WorkspaceError for absolute paths, "..", repository data (.git), Windows paths and misleading names.
    """
    shown = shortened(path)
    if len(path) > MAX_PATH:
        raise WorkspaceError(f"path {shown} is longer than {MAX_PATH} characters")
    if path.startswith("/") or DRIVE.match(path) or path.startswith("\\\\"):
        raise WorkspaceError(f"path {shown} is absolute; use a path relative to the root folder")
    if "\\" in path:
        raise WorkspaceError(f"path {shown} has a backslash; separate folders with /")
    parts = tuple(part for part in path.split("/") if part not in ("", "."))
    for part in parts:
        _check_part(part, shown)
        if writing:
            _check_new_name(part, shown)
    if writing and path.startswith("~"):
        raise WorkspaceError(f"path {shown} begins with ~; use a path relative to the root folder")
    if writing and (not parts or path.endswith("/")):
        raise WorkspaceError(f"path {shown} names no file")
    return parts


def _check_part(part: str, shown: str) -> None:
    plain = _plain(part)
    if not plain.strip(". ") or set(plain) & {"/", "\\"}:
        raise WorkspaceError(f"path {shown} leaves the root folder or looks as if it did")
    if plain.rstrip(". ").split(":")[0] in REPOSITORY:
        raise WorkspaceError(f"path {shown} is inside a repository's own data (.git), which tools do not touch")
    if any(unicodedata.category(character) in ("Cc", "Cs") for character in part) or MISLEADING.search(part):
        raise WorkspaceError(f"path {shown} has control characters")
    if len(part.encode()) > MAX_PART:
        raise WorkspaceError(f"path {shown} has a name longer than {MAX_PART} bytes")


def _check_new_name(part: str, shown: str) -> None:
    """Names that another system would read as a different file or a device."""
    if ":" in part:
        raise WorkspaceError(f"path {shown} has a colon, which names a drive or stream on Windows")
    if part != part.rstrip(". "):
        raise WorkspaceError(f"path {shown} has a name that ends with a dot or a space")
    if RESERVED.fullmatch(part):
        raise WorkspaceError(f"path {shown} has a name that Windows reserves for a device")


def _plain(part: str) -> str:
    """The name as the most lenient file systems compare it."""
    visible = "".join(each for each in part if unicodedata.category(each) != FORMAT_CHARACTERS)
    return unicodedata.normalize("NFKC", visible).casefold()


def shortened(text: str, limit: int = 120) -> str:
    """A text for an error message: quoted, on one line, at most about `limit` characters."""
    return ascii_quoted(text if len(text) <= limit else f"{text[: limit - 1]}…")


def ascii_quoted(text: str) -> str:
    """Quoted, with control characters and lone surrogates escaped."""
    return repr(text.encode("utf-8", "backslashreplace").decode())
