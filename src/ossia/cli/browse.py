"""`ossia browse`: walk pages with the browser tool, and see them as the model does.

In: a folder or a URL, and commands from a prompt, from standard input or from options. Out: pages on standard output.
"""

import asyncio
import json
import os
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ossia.cli.app import app
from ossia.cli.common import fail, starting

if TYPE_CHECKING:
    from ossia.tools.browser.search import SearchProvider
    from ossia.tools.browser.session import BrowserSession
    from ossia.tools.functions import ToolOutput

HELP = """search WORDS       search the folder or the web
open 3             open link 3 of the page
open URL           open a URL or a file of the folder
scroll 40          show the page from line 40
find WORDS         find text in the page
back               return to the page before
quit               end
open {"id": 3}     a call as the model writes it; also search and find"""
_PLACE = re.compile(r"corpus:|replay:|searxng:|exa$|you$")
_CONTROL = dict.fromkeys((*range(9), 11, 12, *range(14, 32), *range(127, 160)), "�")  # they could move the cursor


@app.command()
def browse(
    place: Annotated[str, typer.Argument(help="A folder, a URL, or a value of --search (exa, searxng:URL, …).")],
    open_: Annotated[
        list[str] | None, typer.Option("--open", help="Open this link or URL, print the page and exit. Repeatable.")
    ] = None,
    find: Annotated[
        str | None, typer.Option(help="Then find this text in the page, print the result and exit.")
    ] = None,
    search: Annotated[
        str | None, typer.Option(help="Search service for a URL: exa, you, searxng:URL, corpus:FOLDER or replay:FILE.")
    ] = None,
    record: Annotated[
        Path | None, typer.Option(help="Append searches and pages to this file, for replay:FILE.")
    ] = None,
    allow_private: Annotated[bool, typer.Option(help="Also open pages at private addresses and other ports.")] = False,
    view_tokens: Annotated[int, typer.Option(min=64, max=16_384, help="Tokens of one view.")] = 1_024,
) -> None:
    """Walk pages as the model does: search, open links, find text.

    Without options it reads commands from a prompt, or from standard input if that is no terminal. It exits with 1 if a
    command failed.
    """
    with starting():
        from ossia.tools.browser.replay import RecordingProvider
        from ossia.tools.session import ToolUnavailableError

        try:
            provider, first = _provider(place, search, allow_private)
        except ValueError as error:
            fail(str(error))
        if record is not None:
            provider = RecordingProvider(provider, record)
        session = _session(provider, view_tokens)
    with asyncio.Runner() as runner:
        walk = _Walk(session, runner)
        try:
            runner.run(session.open())
        except ToolUnavailableError as error:
            fail(str(error))
        if first:
            walk.do(f"open {first}")
        once = [f"open {each}" for each in open_ or ()] + ([f"find {find}"] if find else [])
        for line in once or _lines():
            if line.strip() in ("quit", "exit") or (once and walk.failed):
                break
            walk.do(line)
    if walk.failed:
        raise typer.Exit(1)


def _provider(place: str, search: str | None, allow_private: bool) -> "tuple[SearchProvider, str | None]":
    """The provider, and the page to begin with. Raises ValueError."""
    from ossia.tools.browser.settings import EXA_KEY, YOU_KEY, search_provider, web_pages

    keys = {name: os.environ.get(name, "") for name in (EXA_KEY, YOU_KEY)}
    if _PLACE.match(place) or Path(place).is_dir():
        if search is not None:
            raise ValueError("give --search with a URL only")
        value = place if _PLACE.match(place) else f"corpus:{place}"
        return search_provider(value, keys, allow_private=allow_private), None
    if "://" not in place and ("." not in place or Path(place).exists()):
        raise ValueError(f"{place} is neither a folder nor a URL")
    if search is not None:
        return search_provider(search, keys, allow_private=allow_private), place
    return web_pages(allow_private), place


def _session(provider: "SearchProvider", view_tokens: int) -> "BrowserSession":
    from ossia.tokenizer.tokenizer import Tokenizer
    from ossia.tokenizer.tokenizer_json import o200k_harmony
    from ossia.tools.browser.results import BrowserLimits
    from ossia.tools.browser.session import BrowserSession, token_splitter

    limits = BrowserLimits(view_tokens, max_calls=sys.maxsize, max_tokens=sys.maxsize)
    return BrowserSession(provider, token_splitter(Tokenizer(o200k_harmony())), limits)


class _Walk:
    """Runs commands and prints pages. failed: whether a command failed."""

    def __init__(self, session: "BrowserSession", runner: asyncio.Runner) -> None:
        self._session = session
        self._runner = runner
        self._shown: list[int] = []  # cursors, for `back`
        self.failed = False

    def do(self, line: str) -> None:
        """Run one line."""
        name, _, rest = line.strip().partition(" ")
        if not name:
            return
        if name == "help":
            typer.echo(HELP)
            return
        call = _call(name, rest.strip(), self._shown)
        if call is None:
            self.failed = True
            typer.secho(f"{name!r} is not a command here; enter help", err=True, fg="yellow")
            return
        if name == "back":
            del self._shown[-2:]
        self._print(*call)

    def _print(self, function: str, arguments: str) -> None:
        try:
            output: ToolOutput = self._runner.run(self._session.run(function, arguments))
        except KeyboardInterrupt:
            typer.secho("cancelled", err=True, fg="yellow")
            return
        self.failed = self.failed or output.failed
        cursor = getattr(output.details, "cursor", None)
        if not output.failed and cursor is not None:
            self._shown.append(cursor)
        if output.failed and re.search("no public address|only 80 and 443", output.text):
            typer.secho("--allow-private opens private addresses and other ports", err=True, dim=True)
        typer.secho(output.text.translate(_CONTROL), err=output.failed, fg="yellow" if output.failed else None)


def _call(name: str, rest: str, shown: list[int]) -> tuple[str, str] | None:
    """A command as a call of the model. None: it is not a command."""
    if name in ("search", "open", "find") and rest.startswith("{"):
        return name, rest
    here = {"cursor": shown[-1]} if shown else {}
    if name == "search":
        return name, json.dumps({"query": rest})
    if name == "find":
        return name, json.dumps({"pattern": rest, **here})
    if name == "open" and rest:
        return name, json.dumps({"id": int(rest) if rest.isdecimal() else rest, **here})
    if name == "scroll":
        return "open", json.dumps({"loc": rest or 0, **here})
    if name == "back" and len(shown) > 1:
        return "open", json.dumps({"cursor": shown[-2]})
    return None


def _lines() -> Iterator[str]:
    """Commands from a prompt, or from standard input if it is no terminal."""
    if not sys.stdin.isatty():
        yield from sys.stdin
        return
    from prompt_toolkit import PromptSession

    prompt: Callable[[str], str] = PromptSession[str]().prompt
    typer.secho("search, open, scroll, find, back, quit; help explains them", dim=True, err=True)
    while True:
        try:
            yield prompt("> ")
        except (EOFError, KeyboardInterrupt):
            return
