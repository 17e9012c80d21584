"""Tools by name: what is offered, what is refused with the option to give, and the sessions of conversations."""

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from ossia.tools.choose import ToolFactory, ToolSettings, tool_names
from ossia.tools.python_file import tools_from
from ossia.tools.session import ToolUnavailableError
from ossia.tools.toolset import ToolSet
from tests.support.vocabularies import small


def factory(*tools: str, search: str | None = None, mcp: tuple[str, ...] = ()) -> ToolFactory:
    return ToolFactory(ToolSettings(tools, search, mcp), small())


@pytest.fixture
def corpus(tmp_path: Path) -> str:
    folder = tmp_path / "pages"
    folder.mkdir()
    (folder / "alpha.md").write_text("# Alpha\n\nThe alpha page names the colour green.\n")
    return f"corpus:{folder}"


def test_names_are_separated_by_commas():
    assert tool_names(" browser, mcp:docs ,,mine.py") == ("browser", "mcp:docs", "mine.py")
    assert tool_names("") == ()


def test_nothing_is_offered_unless_it_is_named():
    assert factory().names == ()
    assert factory().functions == ()
    assert factory().toolset() is None


def test_each_conversation_has_a_browser_of_its_own_over_the_same_pages(corpus: str):
    offered = factory("browser", search=corpus)

    async def use() -> list[str]:
        one, other = offered.toolset(), offered.toolset()
        assert one is not None
        assert other is not None
        for toolset in (one, other):
            await toolset.open()
        texts = [(await one.run("browser.search", '{"query": "colour"}')).text]
        texts.append((await one.run("browser.open", '{"id": 0}')).text)
        texts.append((await other.run("browser.open", "{}")).text)
        for toolset in (one, other):
            await toolset.close()
        await offered.close()
        return texts

    found, opened, empty = asyncio.run(use())
    assert "alpha" in found.lower()
    assert "green" in opened
    assert empty == "No pages to access!"


@pytest.mark.parametrize(
    ("tools", "search", "mcp", "message"),
    [
        (
            ("brwser",),
            None,
            (),
            "no such tool; give python, browser, shell, container, repo_browser, mcp, mcp:NAME, or a Python file",
        ),
        (("browser",), None, (), "the browser needs a search provider: give --search corpus:FOLDER"),
        (("browser",), "bing", (), "'bing' is not a search provider"),
        (("browser",), "exa", (), "set the environment variable EXA_API_KEY"),
        (("mcp:docs",), None, ("other=https://x.org/mcp",), r"no MCP server 'docs' \(known: other\)"),
        (("mcp:docs",), None, (), r"\(known: none\); give --mcp docs=URL"),
        ((), None, ("docs=https://x.org/mcp",), "add mcp to --tools"),
        (("mcp",), None, ("docs",), "write NAME=URL"),
    ],
)
def test_settings_that_do_not_fit_name_the_option_to_give(
    tools: tuple[str, ...], search: str | None, mcp: tuple[str, ...], message: str
):
    with pytest.raises(ValueError, match=message):
        factory(*tools, search=search, mcp=mcp)


def test_mcp_offers_all_servers_and_a_name_one():
    servers = ("a=https://x.org/mcp", "b=https://y.org/mcp")
    assert factory("mcp", mcp=servers).names == ("mcp:a", "mcp:b")
    assert factory("mcp:b", "mcp:b", mcp=servers).names == ("mcp:b",)


def test_a_check_says_why_a_tool_cannot_start(tmp_path: Path):
    offered = factory("mcp", mcp=(f"a={sys.executable} -c pass",))
    with pytest.raises(ToolUnavailableError, match="MCP server a"):
        asyncio.run(offered.check())


def test_keys_are_in_no_text_form():
    settings = ToolSettings(("browser",), "exa", keys={"EXA_API_KEY": "secret-key"})
    assert "secret-key" not in repr(settings)


# Python and the shell


def sandboxed(*tools: str, **settings: Any) -> ToolFactory:
    try:
        return ToolFactory(ToolSettings(tools, **settings), small())
    except ToolUnavailableError as error:
        pytest.skip(f"no sandbox on this machine: {error}")


def run_all(toolset: ToolSet | None, *calls: tuple[str, str]) -> list[str]:
    async def run() -> list[str]:
        assert toolset is not None
        await toolset.open()
        texts = [(await toolset.run(recipient, text)).text for recipient, text in calls]
        await toolset.close()
        return texts

    return asyncio.run(run())


def test_python_and_the_shell_of_a_conversation_share_a_folder():
    offered = sandboxed("python", "shell")
    assert offered.names == ("python", "container", "repo_browser")
    assert offered.asks == {"container", "repo_browser.apply_patch"}
    _, listed, opened = run_all(
        offered.toolset(),
        ("python", "open('/mnt/data/note.txt', 'w').write('green')"),
        ("container.exec", '{"cmd": ["cat", "/mnt/data/note.txt"]}'),
        ("repo_browser.open_file", '{"path": "note.txt"}'),
    )
    assert "green" in listed
    assert "green" in opened
    (other,) = run_all(offered.toolset(), ("python", "import os; print(os.listdir('/mnt/data'))"))
    assert other == "[]\n"


def test_a_root_is_the_folder_of_all_conversations_and_stays(tmp_path: Path):
    (tmp_path / "note.txt").write_text("blue")
    (shown,) = run_all(
        sandboxed("repo_browser", root=tmp_path).toolset(), ("repo_browser.open_file", '{"path": "note.txt"}')
    )
    assert "blue" in shown
    assert (tmp_path / "note.txt").exists()


def test_programs_have_no_network_unless_it_is_given():
    code = "import socket; s = socket.socket(); s.settimeout(1); s.connect(('127.0.0.1', 9))"
    (without,) = run_all(sandboxed("python").toolset(), ("python", code))
    (given,) = run_all(sandboxed("python", network=True).toolset(), ("python", code))
    assert "ConnectionRefusedError" not in without
    assert "ConnectionRefusedError" in given


def test_without_a_sandbox_python_asks_too():
    offered = ToolFactory(ToolSettings(("python",), unsafe=True), small())
    assert offered.sandbox is not None
    assert offered.sandbox.form == "none"
    assert "python" in offered.asks


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sandbox": "gaol"}, "no such form; give auto, root"),
        ({"root": Path("/nowhere")}, "--root /nowhere is not a folder"),
    ],
)
def test_bad_settings_of_programs_are_refused(settings: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        sandboxed("python", **settings)


def test_small_models_get_a_short_description():
    offered = sandboxed("python")
    long = offered.python(offered.folder()).namespace.description
    small_one = ToolFactory(offered.settings, small(), context=4096)
    short = small_one.python(small_one.folder()).namespace.description
    assert len(str(short)) < 120 < len(str(long))


# Python files


def test_functions_with_a_docstring_become_tools(tmp_path: Path):
    file = tmp_path / "mine.py"
    file.write_text(
        "import json\nfrom math import sqrt\n\n"
        'def twice(x: int) -> int:\n    """Twice x."""\n    return 2 * x\n\n'
        "def helper(x: int) -> int:\n    return x\n\n"
        'def _hidden():\n    """Not public."""\n'
    )
    (tool,) = factory(str(file)).functions
    assert (tool.recipient, tool.spec.description) == ("functions.twice", "Twice x.")
    assert json.loads(tool.call('{"x": 4}').text) == 8


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = 1\n", "defines no public function with a docstring"),
        ("def f(x: int) -> int:\n    return x\n", "a function needs a docstring to become a tool"),
        ("1 / 0\n", "ZeroDivisionError"),
        ("def f(:\n", "SyntaxError"),
    ],
)
def test_files_without_tools_are_refused(tmp_path: Path, text: str, message: str):
    (tmp_path / "bad.py").write_text(text)
    with pytest.raises(ValueError, match=message):
        tools_from(tmp_path / "bad.py")


def test_a_file_that_is_missing_is_named():
    with pytest.raises(FileNotFoundError, match=r"nowhere\.py"):
        factory("nowhere.py")
