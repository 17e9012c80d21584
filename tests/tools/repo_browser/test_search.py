"""Search: exact lines first, then without regard to case; bounded in time, bytes and results."""

import threading
from pathlib import Path

import pytest

from ossia.tools.patch.workspace import Workspace
from ossia.tools.repo_browser.search import SearchLimits, search


def prepared(root: Path, **files: str) -> Workspace:
    for name, text in files.items():
        (root / name).write_text(text)
    return Workspace(root)


def found(workspace: Workspace, query: str) -> list[str]:
    return [line for line in search(workspace, "", query).text.splitlines() if not line.startswith("[")]


def test_signs_of_regular_expressions_are_plain_first(tmp_path: Path):
    workspace = prepared(tmp_path, a="f(x).*\nf.x\na|b\n")
    assert found(workspace, "f(x).*") == ["a:1: f(x).*"]
    assert found(workspace, "f.x") == ["a:2: f.x"]
    assert found(workspace, "a|b") == ["a:3: a|b"]


@pytest.mark.parametrize(
    ("query", "lines"),
    [
        ("ALPHA", ["a:1: Alpha one", "a:4: two alpha"]),
        ("beta|gamma", ["a:2: Beta", "a:3: gamma.x(1)"]),
        ("alpha.*one", ["a:1: Alpha one"]),
        (r"gamma\.x\(1\)", ["a:3: gamma.x(1)"]),
        (r"\bbeta\b", ["a:2: Beta"]),
        ("delta", ["No line contains 'delta'."]),
        (".*", ["No line contains '.*'."]),
        ("|", ["No line contains '|'."]),
    ],
)
def test_without_an_exact_match_case_is_ignored_and_alternatives_are_tried(
    query: str, lines: list[str], tmp_path: Path
):
    assert found(prepared(tmp_path, a="Alpha one\nBeta\ngamma.x(1)\ntwo alpha\n"), query) == lines


def test_results_are_limited(tmp_path: Path):
    workspace = prepared(tmp_path, a="x\n" * 100)
    cut = search(workspace, "", "x", 3)
    assert cut.text.splitlines() == ["a:1: x", "a:2: x", "a:3: x", "[more than 3 matches; only the first are shown]"]
    assert cut.found == 3
    assert search(workspace, "", "x", 10**9).found == 100


def test_long_lines_are_cut(tmp_path: Path):
    assert len(search(prepared(tmp_path, a="x" * 100_000), "", "xx").text) < 400


def test_binary_and_large_files_are_left_out(tmp_path: Path):
    (tmp_path / "binary").write_bytes(b"x\0x")
    workspace = prepared(tmp_path, large="x" * 2_000_001, small="x")
    assert search(workspace, "", "x").text == "small:1: x\n[2 binary or large files were not searched]"


def test_time_and_bytes_are_limited(tmp_path: Path):
    workspace = prepared(tmp_path, **{f"f{n}": "y\n" * 1_000 for n in range(50)}, z="x\n")
    assert "[stopped after 0 s" in search(workspace, "", "x", limits=SearchLimits(seconds=0)).text
    assert "[stopped after 5000 bytes" in search(workspace, "", "x", limits=SearchLimits(bytes=5_000)).text


def test_a_stopped_search_ends(tmp_path: Path):
    stop = threading.Event()
    stop.set()
    assert search(prepared(tmp_path, a="x"), "", "x", stop=stop).found == 0
