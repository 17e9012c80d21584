"""`ossia browse`: commands from standard input and options, on folders and on web pages."""

import asyncio
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Thread

import pytest
from click.testing import Result
from typer.testing import CliRunner

from ossia.cli import app
from tests.support.web_server import WebServer, http, web_server


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "docs"
    root.mkdir()
    (root / "a.html").write_text("<title>Page A</title><p>harbor and <a href=b.md>bee</a>")
    (root / "b.md").write_text("# Page B\n\nbees \x1b[31m and harbors\n")
    return root


def browse(*arguments: object, stdin: str = "") -> Result:
    return CliRunner().invoke(app, ["browse", *map(str, arguments)], input=stdin)


def heads(done: Result) -> list[str]:
    return [line for line in done.stdout.splitlines() if line.startswith("[")]


@contextmanager
def serving(web_pages: dict[str, bytes]) -> Iterator[WebServer]:
    """A web server in another thread."""
    started, ended = Event(), Event()
    found: list[WebServer] = []

    async def run() -> None:
        async with web_server(dict(web_pages)) as web:
            found.append(web)
            started.set()
            await asyncio.to_thread(ended.wait)

    thread = Thread(target=asyncio.run, args=(run(),))
    thread.start()
    started.wait(30)
    try:
        yield found[0]
    finally:
        ended.set()
        thread.join()


def test_commands_walk_a_folder(folder: Path):
    commands = (
        'search harbor\nopen 0\nopen 0\nback\nfind BEE\nscroll 1\nopen {"cursor": 0, "id": 1}\nhelp\nquit\nopen 99\n'
    )
    done = browse(folder, stdin=commands)
    assert done.exit_code == 0, done.output
    assert heads(done) == [
        "[0] harbor", "[1] Page A (corpus://a.html)", "[2] Page B (corpus://b.md)", "[3] Page A (corpus://a.html)",
        "[4] Find results for text: `bee` in `Page A` (corpus://a.html/find?pattern=bee)",
        "[5] Find results for text: `bee` in `Page A` (corpus://a.html/find?pattern=bee)", "[6] Page B (corpus://b.md)",
    ]  # fmt: skip
    assert "return to the page before" in done.stdout


def test_options_show_pages_and_end(folder: Path):
    done = browse(folder, "--open", "a.html", "--open", "0", "--find", "harbors")
    assert done.exit_code == 0
    assert [line[:3] for line in heads(done)] == ["[0]", "[1]", "[2]"]


def test_pages_cannot_send_control_codes_to_the_terminal(folder: Path):
    assert "\x1b" not in browse(folder, "--open", "b.md").stdout


@pytest.mark.parametrize(
    ("commands", "message"),
    [("open 7\n", "No pages to access!"), ("jump\n", "'jump' is not a command here"), ("back\n", "'back' is not a command"), ("open c.html\n", "no such file")],
)  # fmt: skip
def test_a_failed_command_is_said_and_the_exit_code_is_1(folder: Path, commands: str, message: str):
    done = browse(folder, stdin=commands + "search harbor\n")
    assert done.exit_code == 1
    assert message in done.stderr
    assert heads(done) == ["[0] harbor"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nothing"], "nothing is neither a folder nor a URL"), (["exa"], "set the environment variable EXA_API_KEY"),
        (["corpus:/none"], "/none is not a folder"), (["https://a.test/", "--search", "bing"], "is not a search provider"),
        (["replay:/none.jsonl"], "/none.jsonl cannot be read"), (["corpus:/none", "--search", "exa"], "give --search with a URL only"),
    ],
)  # fmt: skip
def test_wrong_places_are_named(arguments: list[str], message: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("EXA_API_KEY", raising=False)
    done = browse(*arguments)
    assert done.exit_code == 1
    assert message in done.stderr


def test_private_addresses_need_an_option():
    with serving({"/": http(b"<title>Local</title><a href=/b>b</a>"), "/b": http(b"<title>B</title>x")}) as web:
        url = f"http://{web.host}/"
        refused = browse(url, "--open", "0")
        assert refused.exit_code == 1
        assert "--allow-private opens" in refused.stderr
        assert not web.requests
        done = browse(url, "--allow-private", "--open", "0")
        assert heads(done) == [f"[0] Local ({url})", f"[1] B ({url}b)"]
        assert "there is no search service" in browse(url, "--allow-private", stdin="search x\n").stderr


def test_recorded_pages_are_replayed(folder: Path, tmp_path: Path):
    record = tmp_path / "calls.jsonl"
    commands = "search harbor\nopen 0\nopen b.md\nopen none.md\n"
    first = browse(folder, "--record", record, stdin=commands)
    assert [sorted(json.loads(line)) for line in record.read_text().splitlines()][-1] == ["error", "url"]
    again = browse(f"replay:{record}", stdin=commands)
    assert again.stdout == first.stdout
