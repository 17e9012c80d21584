"""`ossia mcp` as a program: an MCP client starts it, or finds it over HTTP."""

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from mcp import Client
from mcp.client.stdio import StdioServerParameters

from tests.support.waiting import PATIENCE

SHAPE = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"], "additionalProperties": False}


def command(*arguments: str) -> StdioServerParameters:
    return StdioServerParameters(
        command=sys.executable, args=["-m", "ossia", "mcp", *arguments], env={"PYTHONPATH": os.pathsep.join(sys.path)}
    )


def ossia_mcp(*arguments: str) -> subprocess.CompletedProcess[str]:
    done = [sys.executable, "-m", "ossia", "mcp", *arguments]
    return subprocess.run(done, capture_output=True, text=True, timeout=PATIENCE, stdin=subprocess.DEVNULL)


@pytest.mark.parametrize("mode", ["auto", "legacy"])
def test_a_client_asks_the_model_and_uses_the_browser(mode: str, tmp_path: Path):
    (tmp_path / "crane.md").write_text("The harbor has 12 cranes.")

    async def run():
        offered = command("-m", "ossia-mini", "--tools", "browser", "--search", f"corpus:{tmp_path}")
        async with Client(offered, mode=mode) as client:
            names = [tool.name for tool in (await client.list_tools()).tools]
            assert names == ["ask", "browser_search", "browser_open", "browser_find"]
            found = await client.call_tool("browser_search", {"query": "cranes"})
            assert "12 cranes" in found.content[0].text
            opened = await client.call_tool("browser_open", {"id": 0})
            assert opened.content[0].text.startswith("[1] crane.md")
            seen = []

            async def on_progress(progress, total, message):
                seen.append(message)

            question = {"prompt": "What is 2 + 2?", "effort": "high", "schema": SHAPE}
            answer = await client.call_tool("ask", question, progress_callback=on_progress)
            assert not answer.is_error
            assert isinstance(json.loads(answer.content[0].text)["n"], int)
            assert "answering" in seen
            long = await client.call_tool("ask", {"prompt": "word " * 100_000})
            assert long.is_error
            assert "shorten it" in long.content[0].text
            bad = await client.call_tool("ask", {"prompt": "Why?", "schema": {"type": "nothing"}})
            assert bad.is_error

    asyncio.run(run())


def test_python_keeps_its_variables():
    async def run():
        async with Client(command("--tools", "python", "--unsafe-tools")) as client:
            await client.call_tool("python", {"code": "x = 6 * 7"})
            assert (await client.call_tool("python", {"code": "print(x + 1)"})).content[0].text.strip() == "43"
            assert (await client.call_tool("python", {"code": "1 / 0"})).is_error

    asyncio.run(run())


def test_functions_of_a_file_are_offered(tmp_path: Path):
    (tmp_path / "mine.py").write_text(
        'def double(number: int) -> int:\n    """Double."""\n    print("loud")\n    return 2 * number\n'
    )

    async def run():
        async with Client(command("--tools", str(tmp_path / "mine.py"))) as client:
            assert (await client.call_tool("double", {"number": 21})).content[0].text == "42"

    asyncio.run(run())


def test_it_serves_over_http(tmp_path: Path):
    (tmp_path / "mine.py").write_text('def double(number: int) -> int:\n    """Double."""\n    return 2 * number\n')
    started = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "ossia",
            "mcp",
            "--tools",
            str(tmp_path / "mine.py"),
            "--transport",
            "http",
            "--port",
            "0",
        ],
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert started.stderr
        line = next(line for line in started.stderr if line.startswith("MCP server at "))
        url = line.removeprefix("MCP server at ").strip()
        assert url.startswith("http://127.0.0.1:")

        async def run():
            async with Client(url) as client:
                assert (await client.call_tool("double", {"number": 4})).content[0].text == "8"

        asyncio.run(run())
    finally:
        started.kill()
        started.wait()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "nothing to offer: give a model, tools, or both"),
        (("--transport", "pigeon"), "--transport 'pigeon' is none of stdio, http"),
        (("--tools", "no_such.py"), "no_such.py"),
        (("--tools", "browser"), "--search"),
        (
            ("--tools", "mcp:shop", "--mcp", "shop=/no/such/program"),
            "MCP server shop: the server's command cannot be started",
        ),
        (("-m", "ossia-mini", "--transport", "http", "--host", "0.0.0.0"), "give --api-key"),
    ],
)
def test_errors_are_one_line_that_says_what_to_do(arguments: tuple[str, ...], message: str):
    done = ossia_mcp(*arguments)
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("error: ")
    assert message in last
    assert not done.stdout


def test_a_missing_package_is_named_with_its_remedy():
    code = "import sys; sys.modules['mcp'] = sys.modules['mcp_types'] = None; sys.argv = ['ossia', 'mcp', '-m', 'ossia-mini']; from ossia.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, stdin=subprocess.DEVNULL)
    assert done.returncode == 1
    assert done.stderr.strip().splitlines()[-1] == "error: ossia mcp needs the package mcp: pip install 'ossia[mcp]'"


def test_a_model_that_cannot_be_loaded_is_an_answer():
    async def run():
        async with Client(command("-m", "/no/such/model")) as client:
            answer = await client.call_tool("ask", {"prompt": "Why?"})
            assert answer.is_error
            assert answer.content[0].text.startswith("error: the model cannot be loaded: ")

    asyncio.run(run())
