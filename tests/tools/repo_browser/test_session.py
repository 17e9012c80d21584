"""repo_browser as the model uses it: what each call answers, and that no arguments raise an error."""

import asyncio
import json
import os
import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ossia.tools.functions import ToolOutput
from ossia.tools.patch.plan import PatchResult
from ossia.tools.patch.workspace import Workspace
from ossia.tools.repo_browser.session import RepoBrowserResult, RepoBrowserSession
from ossia.tools.session import ToolUnavailableError


@pytest.fixture
def root(tmp_path: Path) -> Path:
    files = {
        "README.md": "# Garden\n\nA program that waters plants.\n",
        "garden/__init__.py": "",
        "garden/plants.py": "def water(plant):\n    return plant + 1\n\n\ndef cut(plant):\n    return water(plant) - 2\n",
        "garden/deep/er/note.txt": "Water twice.\n",
        ".gitignore": "*.log\nbuild/\n",
        "run.log": "water\n",
        "build/out.py": "water\n",
        ".git/config": "[core]\n",
        "node_modules/x.js": "water\n",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    (tmp_path / "leaf.png").write_bytes(b"\x89PNG\0water")
    return tmp_path


def call(root: Path, name: str, arguments: Any, **options: Any) -> ToolOutput:
    async def run() -> ToolOutput:
        session = RepoBrowserSession(root, **options)
        await session.open()
        try:
            return await session.run(name, arguments if isinstance(arguments, str) else json.dumps(arguments))
        finally:
            await session.close()

    return asyncio.run(run())


def test_the_tree_leaves_out_ignored_files(root: Path):
    output = call(root, "print_tree", {"path": "", "depth": 2})
    assert output.text.splitlines() == [
        "./", "  .gitignore", "  README.md", "  garden/", "    __init__.py", "    deep/", "    plants.py", "  leaf.png",
    ]  # fmt: skip
    assert output.details == RepoBrowserResult("print_tree", "", count=7)


def test_a_folder_is_listed_with_sizes(root: Path):
    assert call(root, "list_dir", {"path": "garden"}).text.splitlines() == ["__init__.py (0 bytes)", "deep/", "plants.py (85 bytes)"]  # fmt: skip
    assert "build/" in call(root, "list_dir", {"path": "."}).text.splitlines()
    assert "deep/er/note.txt (13 bytes)" in call(root, "list_dir", {"path": "garden", "depth": 3}).text
    (root / "empty").mkdir()
    assert call(root, "list_dir", {"path": "empty"}).text == "[empty folder]"


def test_a_search_gives_paths_and_lines(root: Path):
    output = call(root, "search", {"path": "", "query": "water(plant)", "max_results": 20})
    assert output.text.splitlines() == [
        "garden/plants.py:1: def water(plant):",
        "garden/plants.py:6:     return water(plant) - 2",
        "[1 binary or large files were not searched]",
    ]
    assert output.details == RepoBrowserResult("search", "", "water(plant)", 2)


def test_a_search_in_one_file(root: Path):
    assert (
        call(root, "search", {"path": "garden/plants.py", "query": "def cut"}).text
        == "garden/plants.py:5: def cut(plant):"
    )


def test_a_file_is_shown_with_line_numbers(root: Path):
    arguments = {"path": "garden/plants.py", "line_start": 5, "line_end": 6, "line_numbers": True}
    output = call(root, "open_file", arguments)
    assert output.text == "5\tdef cut(plant):\n6\t    return water(plant) - 2\n[lines 5 to 6 of 6]"
    assert output.details == RepoBrowserResult("open_file", "garden/plants.py", count=2, first_line=5)
    assert call(root, "open_file", {"path": "README.md"}).text == "# Garden\n\nA program that waters plants."
    assert call(root, "open_file", {"path": "garden/__init__.py"}).text == "[empty file]"


def test_a_long_file_is_shown_in_parts(root: Path):
    (root / "long.txt").write_text("".join(f"{n}\n" for n in range(1, 2_001)))
    first = call(root, "open_file", {"path": "long.txt"}).text.splitlines()
    assert (first[0], first[499], first[500]) == ("1", "500", "[lines 1 to 500 of 2000]")
    assert (
        call(root, "open_file", {"path": "long.txt", "line_start": 1999}).text
        == "1999\n2000\n[lines 1999 to 2000 of 2000]"
    )
    (root / "wide.txt").write_text("x" * 50_000)
    assert call(root, "open_file", {"path": "wide.txt"}).text.endswith(
        "[30000 more characters; ask for a smaller part]"
    )


def test_a_patch_is_applied(root: Path):
    patch = "*** Begin Patch\n*** Update File: garden/plants.py\n@@ def cut(plant):\n-    return water(plant) - 2\n+    return plant\n*** End Patch\n"
    output = call(root, "apply_patch", {"patch": patch})
    assert output.text == "Done!"
    assert isinstance(output.details, PatchResult)
    assert (root / "garden/plants.py").read_text().endswith("def cut(plant):\n    return plant\n")
    again = call(root, "apply_patch", {"patch": patch})
    assert again.failed
    assert again.text.startswith("Error applying patch: the hunk of 'garden/plants.py' (patch line 3) does not fit")


def test_a_read_only_session_has_no_patches(root: Path):
    patch = "*** Begin Patch\n*** Delete File: README.md\n*** End Patch\n"
    assert "has no function 'apply_patch'" in call(root, "apply_patch", {"patch": patch}, writable=False).text
    assert "apply_patch" not in {each.name for each in RepoBrowserSession(root, writable=False).namespace.tools}
    assert (root / "README.md").exists()


@pytest.mark.parametrize(
    ("name", "arguments", "same"),
    [
        ("list_files", {"path": "garden"}, ("list_dir", {"path": "garden"})),
        ("find", {"path": "", "pattern": "def cut"}, ("search", {"path": "", "query": "def cut"})),
        ("read_file", {"file_path": "README.md", "start_line": "2", "end_line": 3.0}, ("open_file", {"path": "README.md", "line_start": 2, "line_end": 3})),
        ("print_tree", "", ("print_tree", {"path": "", "depth": 2})),
        ("print_tree", {"path": "/", "depth": 1e9}, ("print_tree", {"path": "", "depth": 20})),
        ("open_file", '{"path": "README.md"} and more', ("open_file", {"path": "README.md"})),
        ("open_file", {"path": "./README.md", "line_end": 10**400}, ("open_file", {"path": "README.md"})),
    ],
)  # fmt: skip
def test_other_names_and_forms_mean_the_same(name: str, arguments: Any, same: tuple[str, Any], root: Path):
    output = call(root, name, arguments)
    assert not output.failed
    assert output.text == call(root, *same).text


@pytest.mark.parametrize(
    ("name", "arguments", "error"),
    [
        ("click", {}, "repo_browser has no function 'click'; it has print_tree, search, open_file, list_dir, apply_patch"),
        ("open_file", {}, "the parameter path is missing or not a string"),
        ("open_file", "[1]", "the arguments are not a JSON object"),
        ("open_file", '{"path": ', "the arguments are not valid JSON"),
        ("open_file", {"path": "x"}, "there is no file 'x'"),
        ("open_file", {"path": "garden"}, "'garden' is a folder, not a file"),
        ("open_file", {"path": "leaf.png"}, "'leaf.png' is a binary file"),
        ("open_file", {"path": "README.md", "line_start": 9}, "line_start is 9, but 'README.md' has 3 lines"),
        ("open_file", {"path": "README.md", "line_start": 3, "line_end": 2}, "line_end 2 comes before line_start 3"),
        ("open_file", {"path": "README.md", "line_start": "a"}, "the parameter line_start is not a number"),
        ("open_file", {"path": ".git/config"}, "inside a repository's own data"),
        ("open_file", {"path": "../x"}, "leaves the root folder"),
        ("open_file", {"path": "/etc/passwd"}, "is absolute"),
        ("print_tree", {"path": "nothing", "depth": 1}, "there is no 'nothing'"),
        ("print_tree", {"path": "README.md", "depth": 1}, "'README.md' is a file, not a folder"),
        ("print_tree", {"path": ".git", "depth": 1}, "inside a repository's own data"),
        ("search", {"path": ""}, "the parameter query is missing"),
        ("search", {"path": "", "query": " "}, "the query must be one line"),
        ("search", {"path": "", "query": "a\nb"}, "the query must be one line"),
        ("search", {"path": "nothing", "query": "a"}, "there is no 'nothing'"),
        ("apply_patch", {}, "the arguments have no patch"),
    ],
)  # fmt: skip
def test_errors_say_what_is_wrong(name: str, arguments: Any, error: str, root: Path):
    output = call(root, name, arguments)
    assert output.failed
    assert error in output.text


@pytest.mark.skipif(os.name == "nt", reason="symbolic links")
def test_links_are_shown_and_not_followed(root: Path, tmp_path_factory: pytest.TempPathFactory):
    outside = tmp_path_factory.mktemp("outside")
    (outside / "secret").write_text("water\n")
    (root / "way").symlink_to(outside)
    (root / "one").symlink_to(outside / "secret")
    assert {"  way@", "  one@"} <= set(call(root, "print_tree", {"path": "", "depth": 5}).text.splitlines())
    for name, arguments in (
        ("open_file", {"path": "way/secret"}),
        ("open_file", {"path": "one"}),
        ("list_dir", {"path": "way"}),
        ("search", {"path": "way", "query": "water"}),
        ("search", {"path": "one", "query": "water"}),
    ):
        output = call(root, name, arguments)
        assert output.failed, output.text
        assert "water" not in output.text.replace("'water'", "")
    assert "way" not in call(root, "search", {"path": "", "query": "water", "max_results": 100}).text


ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | st.sampled_from(["", "garden", "README.md", "..", "."]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)  # fmt: skip
PARAMETERS = st.sampled_from(
    ["path", "query", "depth", "line_start", "line_end", "line_numbers", "max_results", "patch"]
)


@settings(max_examples=300, deadline=None)
@given(
    name=st.sampled_from(["print_tree", "search", "open_file", "list_dir", "apply_patch", "", "x"]),
    arguments=st.one_of(st.text(max_size=30), st.dictionaries(PARAMETERS, ANY_JSON, max_size=5).map(json.dumps)),
)
def test_whatever_the_arguments_are_the_result_is_text(
    name: str, arguments: str, tmp_path_factory: pytest.TempPathFactory
):
    root = tmp_path_factory.getbasetemp() / "fuzzed"
    (root / "garden").mkdir(parents=True, exist_ok=True)
    (root / "README.md").write_text("x\ny\n")
    output = call(root, name, arguments)
    assert isinstance(output.text, str)
    assert output.text


def test_a_missing_folder_makes_the_tool_unavailable(tmp_path: Path):
    with pytest.raises(ToolUnavailableError, match="is not a folder"):
        asyncio.run(RepoBrowserSession(tmp_path / "missing").open())


def test_a_cancelled_call_leaves_nothing_running(root: Path, monkeypatch: pytest.MonkeyPatch):
    """The patch is being planned when the call is cancelled; it is not written."""
    reading, may_read = threading.Event(), threading.Event()
    real = Workspace.read

    def slow(self: Workspace, path: str) -> bytes | None:
        reading.set()
        may_read.wait(10)
        return real(self, path)

    monkeypatch.setattr(Workspace, "read", slow)

    async def run() -> None:
        session = RepoBrowserSession(root)
        patch = json.dumps({"patch": "*** Begin Patch\n*** Delete File: README.md\n*** End Patch\n"})
        task = asyncio.create_task(session.run("apply_patch", patch))
        await asyncio.to_thread(reading.wait, 10)
        task.cancel()
        await asyncio.sleep(0)
        may_read.set()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert (root / "README.md").exists()

    asyncio.run(run())
