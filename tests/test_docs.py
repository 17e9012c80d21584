"""The documentation is true: its Python runs, its commands are taken, its tests are there, both languages show the same.

Python blocks run in the order of their page, in one namespace a page. What asks a server is answered by ossia-mini.
"""

import contextlib
import importlib.util
import io
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer

from ossia.cli import app
from ossia.loading import load
from tests.support.live import live

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "README.ja.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.M | re.S)
ADDRESS = "http://127.0.0.1:8000"
OTHERS = ("agents", "anthropic", "langchain_openai", "litellm", "llama_index")  # clients that the tests do not install
each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
each_pair = pytest.mark.parametrize(
    "name",
    [
        "README",
        "docs/checkpoints",
        "docs/clients",
        "docs/evals",
        "docs/python",
        "docs/server",
        "docs/tools",
        "docs/training",
    ],
)


def blocks(page: Path, *languages: str) -> list[str]:
    return [code for language, code in BLOCK.findall(page.read_text("utf-8")) if language in languages]


def scripts(page: Path) -> list[str]:
    return [line for code in blocks(page, "bash") for line in code.splitlines()]


def transcripts(page: Path) -> list[str]:
    """What was typed in them."""
    lines = [line for code in blocks(page, "text") for line in code.splitlines()]
    return [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]


def commands(lines: list[str], program: str) -> list[list[str]]:
    """The words of each command of this program."""
    calls = [call for line in lines for call in line.split(" && ")]
    return [words for call in calls if (words := shlex.split(call, comments=True)) and words[0] == program]


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with live(load("ossia-mini")) as url:
        yield url


@each_page
def test_python_blocks_run(page: Path, request: pytest.FixtureRequest):
    names: dict[str, object] = {}
    for number, code in enumerate(blocks(page, "python"), 1):
        if ADDRESS in code:
            code = code.replace(ADDRESS, request.getfixturevalue("address"))
        compiled = compile(code, f"{page.name} block {number}", "exec")
        if any(re.search(rf"^from {other}\b", code, re.M) and not importlib.util.find_spec(other) for other in OTHERS):
            continue
        with contextlib.redirect_stdout(io.StringIO()):
            exec(compiled, names)


@each_page
def test_examples_import_the_public_api(page: Path):
    """`import ossia` or `from ossia import name`, nothing from a module inside."""
    code = "\n".join(blocks(page, "python"))
    assert not re.findall(r"^\s*(?:from|import) ossia\..*$", code, re.M)


@each_page
def test_our_commands_have_these_options(page: Path):
    group = typer.main.get_command(app)
    for _, name, *words in commands(scripts(page) + transcripts(page), "ossia"):
        with group.commands[name].make_context(name, words):  # type: ignore[attr-defined]
            pass


@each_page
def test_requests_by_curl_are_answered(page: Path, request: pytest.FixtureRequest):
    for words in commands(scripts(page), "curl"):
        done = curl([*words, "--fail"], request)
        assert done.returncode == 0, done.stderr
        assert done.stdout


@each_page
def test_what_curl_shows_is_what_it_gets(page: Path, request: pytest.FixtureRequest):
    """In a transcript `…` stands for what was left out."""
    for code in blocks(page, "text"):
        for line, shown in re.findall(r"^\$ (curl .*)\n(.*)$", code, re.M):
            said, at = curl(shlex.split(line), request).stdout, 0
            for part in shown.split("…"):
                assert part in said[at:], (part, said)
                at = said.index(part, at) + len(part)


def curl(words: list[str], request: pytest.FixtureRequest) -> subprocess.CompletedProcess[str]:
    if not (program := shutil.which("curl")):
        pytest.skip("needs curl")
    here = [word.replace(ADDRESS, request.getfixturevalue("address")) for word in words[1:]]
    return subprocess.run([program, "-sS", *here], capture_output=True, text=True, timeout=120, check=False)


@each_page
def test_tests_that_are_named_exist(page: Path):
    for file, test in re.findall(r"`(?:tests/)?([\w/]+\.py)::(\w+)", page.read_text("utf-8")):
        found = [path for path in (ROOT / "tests").rglob(Path(file).name) if path.as_posix().endswith(file)]
        assert any(f"def {test}(" in path.read_text("utf-8") for path in found), f"{file}::{test}"


@each_page
def test_links_between_pages_lead_somewhere(page: Path):
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text("utf-8")):
        if "://" not in target:
            assert (page.parent / target).exists(), target


@each_pair
def test_pages_show_the_same_in_both_languages(name: str):
    """The same commands and the same code stand in the English and the Japanese page."""
    english, japanese = ((ROOT / f"{name}{language}.md").read_text("utf-8") for language in ("", ".ja"))
    assert BLOCK.findall(english) == BLOCK.findall(japanese)


@each_pair
def test_pages_have_the_same_parts_in_both_languages(name: str):
    """Headings, rows of tables with their columns, and points of lists, in the same order."""
    english, japanese = (outline(ROOT / f"{name}{language}.md") for language in ("", ".ja"))
    assert english == japanese


def outline(page: Path) -> list[str]:
    lines = BLOCK.sub("", page.read_text("utf-8")).splitlines()
    kinds = [re.match(r"#+ |- |\|", line) for line in lines]
    return [kind[0] + "|" * line.replace(r"\|", "").count("|") for kind, line in zip(kinds, lines) if kind]


def test_the_file_tree_for_contributors_is_the_real_one():
    """CONTRIBUTING.md lists every file and folder at the package's top, and nothing that is not there."""
    listed = set(re.findall(r"^\| `([^`]+)` \|", (ROOT / "CONTRIBUTING.md").read_text("utf-8"), re.M))
    assert not [path for path in listed if not (ROOT / path).exists()]
    package = ROOT / "src" / "ossia"
    folders = {f"src/ossia/{path.parent.name}/" for path in package.glob("*/__init__.py")}
    assert folders <= listed
