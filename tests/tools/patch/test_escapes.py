"""Attempts to reach files outside the root folder, or the repository's own data. None may succeed."""

import os
import shutil
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import pytest

from ossia.tools.patch.parse import PatchError
from ossia.tools.patch.paths import WorkspaceError, checked_path
from ossia.tools.patch.run import apply_patch
from ossia.tools.patch.workspace import HAS_HANDLES, Workspace

pytestmark = pytest.mark.skipif(os.name == "nt", reason="makes links, pipes and sockets")


class Place(NamedTuple):
    """A root with a repository, and a folder beside it that must not change."""

    root: Path
    outside: Path


@pytest.fixture
def place(tmp_path: Path) -> Place:
    root, outside = tmp_path / "root", tmp_path / "outside"
    for folder in (root / ".git" / "hooks", root / "sub" / ".git", outside):
        folder.mkdir(parents=True)
    (root / "a").write_text("x\n")
    for path in (outside / "secret", root / ".git" / "config", root / "sub" / ".git" / "config"):
        path.write_text("x\n")
    return Place(root, outside)


def protected(place: Place) -> dict[str, str]:
    """All files that no patch may change."""
    folders = (place.outside, place.root / ".git", place.root / "sub" / ".git")
    return {str(p): p.read_text() for folder in folders for p in folder.rglob("*") if p.is_file()}


PATHS = [
    "../outside/new", "../outside/secret", "sub/../../outside/secret", "./../outside/secret", "sub/.././../outside/secret",
    "/tmp/ossia-escape", "//tmp/ossia-escape", "/proc/self/cwd/x", "/dev/fd/1", "C:/x", "c:x", "C:\\x", "\\\\server\\share\\x", "\\x",
    "sub\\..\\..\\outside\\secret", ".git/config", ".git/hooks/pre-commit", ".GIT/config", "./.git/config", "sub/.git/config", ".git",
    ".g\u200cit/config", ".git\u200b/config", ".git./config", ".git /config", "git~1/config", "GIT~1/config",
    ".git::$INDEX_ALLOCATION/config", "\uff0egit/config", "\u2025/outside/secret", "\uff0e\uff0e/outside/secret",
    "sub\uff0f..\uff0f..\uff0foutside\uff0fsecret", ".. /outside/secret", "... /x", "~/x", "~root/x", "a\0b", "a\x1b[2J", "a\nb",
    "\u202egpj.exe", "a\udcffb", "NUL", "aux.txt", "com1", "sub/CON", "a:stream", "a.", "a ", "sub/", ".", "x" * 256, "x/" * 600 + "x",
]  # fmt: skip


@pytest.mark.parametrize("path", PATHS, ids=ascii)
def test_a_path_that_leaves_the_root_is_refused(path: str):
    with pytest.raises(WorkspaceError):
        checked_path(path, writing=True)


def operations(path: str) -> list[str]:
    """Every operation on a path, as a patch has it."""
    return [
        f"*** Add File: {path}\n+y",
        f"*** Delete File: {path}",
        f"*** Update File: {path}\n@@\n-x\n+y",
        f"*** Update File: a\n*** Move to: {path}",
        f"*** Update File: {path}\n*** Move to: b",
    ]


@pytest.mark.parametrize(
    "path", [path for path in PATHS if "\n" not in path and "\0" not in path and "\udcff" not in path], ids=ascii
)
def test_no_operation_takes_such_a_path(path: str, place: Place):
    before = protected(place)
    for body in operations(path):
        with suppress(PatchError):  # "a " is read as "a", which is no escape
            apply_patch(f"*** Begin Patch\n{body}\n*** End Patch", Workspace(place.root), overwrite=True)
        assert protected(place) == before
    assert not Path("/tmp/ossia-escape").exists()


@pytest.mark.parametrize("path", ["a", "./a", "a//b", "...x", "..x", "x..", ".github/x", ".gitignore", "git", "a b/c-d_e.f", "世界/é.txt", "nul2", "console", "a~", ".git2"])  # fmt: skip
def test_usual_paths_are_not_refused(path: str):
    parts = [part for part in path.split("/") if part not in ("", ".")]
    if path == "x..":
        with pytest.raises(WorkspaceError, match="ends with a dot"):
            checked_path(path, writing=True)
    assert list(checked_path(path)) == parts


def a_linked_folder(place: Place) -> str:
    (place.root / "link").symlink_to(place.outside)
    return "link/secret"


def a_linked_folder_in_the_middle(place: Place) -> str:
    (place.outside / "deep").mkdir()
    (place.outside / "deep" / "secret").write_text("x\n")
    (place.root / "link").symlink_to("../outside")
    return "link/deep/secret"


def a_linked_file(place: Place) -> str:
    (place.root / "link").symlink_to(place.outside / "secret")
    return "link"


def a_dangling_link(place: Place) -> str:
    (place.root / "link").symlink_to(place.outside / "new")
    return "link"


def a_link_to_the_repository(place: Place) -> str:
    (place.root / "link").symlink_to(".git")
    return "link/config"


def a_link_to_the_root(place: Place) -> str:
    (place.root / "link").symlink_to("/")
    return f"link{place.outside}/secret"


def a_link_by_proc(place: Place) -> str:
    (place.root / "link").symlink_to(f"/proc/self/root{place.outside}")
    return "link/secret"


def a_loop(place: Place) -> str:
    (place.root / "link").symlink_to("link")
    return "link/x"


def a_pipe(place: Place) -> str:
    os.mkfifo(place.root / "pipe")
    return "pipe"


def a_socket(place: Place) -> str:
    with socket.socket(socket.AF_UNIX) as opened:
        here = Path.cwd()
        os.chdir(place.root)  # the path of a socket must be short
        try:
            opened.bind("socket")
        finally:
            os.chdir(here)
    return "socket"


SPECIAL: list[Callable[[Place], str]] = [
    a_linked_folder, a_linked_folder_in_the_middle, a_linked_file, a_dangling_link, a_link_to_the_repository, a_link_to_the_root,
    a_link_by_proc, a_loop, a_pipe, a_socket,
]  # fmt: skip


@pytest.mark.parametrize("handles", [True, False])
@pytest.mark.parametrize("make", SPECIAL)
def test_links_and_special_files_are_not_followed(make: Callable[[Place], str], handles: bool, place: Place):
    if handles and not HAS_HANDLES:
        pytest.skip("this system opens files by name only")
    path = make(place)
    workspace = Workspace(place.root, handles)
    before = protected(place)
    for body in (*operations(path), f"*** Add File: {path}/x\n+y"):
        with pytest.raises(PatchError):
            apply_patch(f"*** Begin Patch\n{body}\n*** End Patch", workspace, overwrite=True)
        assert protected(place) == before
        assert sorted(os.listdir(place.root)) == sorted({".git", "sub", "a", path.split("/")[0]})


def test_a_hard_link_to_a_file_outside_is_replaced_and_the_file_outside_stays(place: Place):
    os.link(place.outside / "secret", place.root / "linked")
    apply_patch("*** Begin Patch\n*** Update File: linked\n@@\n-x\n+y\n*** End Patch", Workspace(place.root))
    assert (place.outside / "secret").read_text() == "x\n"
    assert (place.root / "linked").read_text() == "y\n"


@pytest.mark.skipif(not HAS_HANDLES, reason="opens files by name only")
@pytest.mark.parametrize("body", ["*** Update File: dir/secret\n@@\n-x\n+y", "*** Add File: dir/new\n+n", "*** Delete File: dir/secret",
                                  "*** Add File: dir/deep/new\n+n", "*** Update File: dir/secret\n*** Move to: dir/new"])  # fmt: skip
@pytest.mark.parametrize("what", ["folder", "file"])
def test_a_link_put_in_place_before_any_system_call_is_not_followed(what: str, body: str, place: Place):
    """The worst moment of a race is tried for certain: the folder or file becomes a link before the n-th call."""
    real = place.root / "dir"
    real.mkdir()
    (real / "secret").write_text("x\n")
    target, link = (real, place.outside) if what == "folder" else (real / "secret", place.outside / "secret")
    aside = place.root / "aside"
    for number in range(60):
        with swapped_before(number, target, aside, link), suppress(PatchError):
            apply_patch(f"*** Begin Patch\n{body}\n*** End Patch", Workspace(place.root), overwrite=True)
        assert {path.name: path.read_text() for path in place.outside.rglob("*")} == {"secret": "x\n"}, number
        for path in (target, aside, real):
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink(missing_ok=True)
        real.mkdir()
        (real / "secret").write_text("x\n")


@contextmanager
def swapped_before(number: int, target: Path, aside: Path, link: Path) -> Iterator[None]:
    count = 0

    def wrapped(function: Callable[..., object]) -> Callable[..., object]:
        def call(*arguments: object, **options: object) -> object:
            nonlocal count
            count += 1
            if count == number + 1:
                with suppress(OSError):
                    rename(target, aside)
                    symlink(link, target)
            return function(*arguments, **options)

        return call

    rename, symlink = os.rename, os.symlink
    with pytest.MonkeyPatch.context() as patched:
        for name in ("open", "stat", "link", "replace", "unlink", "mkdir", "fstat"):
            patched.setattr(os, name, wrapped(getattr(os, name)))
        yield
