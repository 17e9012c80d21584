"""The workspace: files come and go by name, and no link, name or special file leads out of it."""

import os
from pathlib import Path

import pytest

from ossia.tools.data_folder import DataFolder, DataFolderError


def test_files_are_written_listed_and_read(tmp_path: Path):
    workspace = DataFolder(tmp_path)
    workspace.write("a/b.txt", b"text")
    workspace.write("/mnt/data/c.bin", b"\0\1")
    assert [(file.path, file.size) for file in workspace.files()] == [("a/b.txt", 4), ("c.bin", 2)]
    assert workspace.read("a/b.txt") == b"text"
    assert workspace.read("/mnt/data/c.bin") == b"\0\1"
    workspace.write("c.bin", b"new")
    assert workspace.read("c.bin") == b"new"
    workspace.close()
    assert tmp_path.exists()


def test_a_folder_that_was_made_is_removed():
    workspace = DataFolder()
    workspace.write("a/b", b"")
    root = workspace.root
    assert root.is_dir()
    workspace.close()
    workspace.close()
    assert not root.exists()


@pytest.mark.parametrize(
    "name", ["", ".", "/", "../x", "a/../../x", "/etc/passwd", "a\0b", "/mnt/data", "/mnt/database", "d/" * 40]
)
def test_names_stay_inside(tmp_path: Path, name: str):
    with pytest.raises(DataFolderError):
        DataFolder(tmp_path).read(name)
    with pytest.raises(DataFolderError):
        DataFolder(tmp_path).write(name, b"x")


def test_links_are_not_followed(tmp_path: Path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_text("secret")
    root = tmp_path / "root"
    root.mkdir()
    (root / "file").symlink_to(outside / "secret")
    (root / "folder").symlink_to(outside)
    workspace = DataFolder(root)
    for name in ("file", "folder/secret"):
        with pytest.raises(DataFolderError):
            workspace.read(name)
    with pytest.raises(DataFolderError):
        workspace.write("folder/new", b"x")
    workspace.write("file", b"mine")  # the link is replaced, not followed
    assert (outside / "secret").read_text() == "secret"
    assert [file.path for file in workspace.files()] == ["file"]
    assert os.listdir(outside) == ["secret"]


def test_special_and_large_files_are_refused(tmp_path: Path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "big").write_bytes(b"x" * 100)
    workspace = DataFolder(tmp_path)
    with pytest.raises(DataFolderError, match="plain file"):
        workspace.read("pipe")
    with pytest.raises(DataFolderError, match="larger"):
        workspace.read("big", most=99)
    with pytest.raises(DataFolderError, match="No such file"):
        workspace.read("none")
    assert [file.path for file in workspace.files()] == ["big"]
