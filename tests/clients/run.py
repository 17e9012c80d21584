"""Runs other people's clients against a real `ossia serve`: all of them, or those that are named.

    python -m tests.clients.run [--cache FOLDER] [CLIENT ...]

In: names of clients. Out: a table of their checks, and an exit status. Each client lives in an environment of its own, made
at first in the cache folder. All that passes is checked against the openai package's types.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import httpx
import uvicorn
from mcp.server.mcpserver import MCPServer
from starlette.applications import Starlette

from tests.clients.environments import CLIENTS, HERE, Client, cache_folder, command, prepare
from tests.clients.recorder import Recorder, complaints
from tests.support.hosted import PAGES
from tests.support.processes import address_in
from tests.support.waiting import until

ROOT = HERE.parents[1]
KEY = "a-key-for-tests"
MODELS = {"mini": "ossia-mini", "actor": "gpt-oss-20b", "open": "gpt-oss-20b"}
TOOLS = {"mini": "python,browser", "actor": "python,browser,container"}  # that requests may use


class Check(NamedTuple):
    """The outcome of one check of one client."""

    client: str
    speaker: str
    name: str
    ok: bool
    detail: str


@dataclass
class Servers:
    """A server for each speaker, behind a recorder."""

    recorders: dict[str, Recorder]
    urls: dict[str, str]
    mcp: str  # the address of an MCP server that requests may name

    def check(self, client: Client, speaker: str, home: Path) -> list[Check]:
        """All checks of one client, with what OpenAI's types say to the answers as the last."""
        recorder = self.recorders[speaker]
        recorder.heard.clear()
        words = [*command(client, home), f"{self.urls[speaker]}/v1", MODELS[speaker], speaker, KEY, str(home), self.mcp]
        done = subprocess.run(words, capture_output=True, text=True, timeout=900, check=False)
        lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith('{"check"')]
        found = [Check(client.name, speaker, each["check"], each["ok"], each["detail"]) for each in lines]
        if not found or (done.returncode and all(each.ok for each in found)):
            found.append(
                Check(client.name, speaker, "ran to its end", False, done.stdout[-1000:] + done.stderr[-2000:])
            )
        wrong = complaints(recorder.heard)
        said = f"{len(recorder.heard)} answers" if not wrong else "\n".join(dict.fromkeys(wrong))
        return [
            *found,
            Check(client.name, speaker, "answers fit OpenAI's types", bool(recorder.heard) and not wrong, said),
        ]


def speakers(client: Client) -> tuple[str, ...]:
    """The prompts of some do not fit ossia-mini's 4,096 tokens; with --oss Codex sends no key."""
    return {"codex": ("actor", "open"), "claude-code": ("actor",), "aider": ("actor",)}.get(
        client.name, ("actor", "mini")
    )


@contextmanager
def servers() -> Iterator[Servers]:
    """`ossia serve` with ossia-mini, and the same server with the actor, with a key and without. Those with a key have tools."""
    with ExitStack() as stack:
        urls, recorders = {}, {}
        shop = stack.enter_context(_served(_shop().streamable_http_app()))
        pages = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        for name, text in PAGES.items():
            (pages / name).write_text(text, "utf-8")
        tools = ["--search", f"corpus:{pages}", "--mcp-allow", shop.removeprefix("http://")]
        for speaker in MODELS:
            target = stack.enter_context(_process(speaker, tools))
            recorders[speaker] = Recorder(target)
            urls[speaker] = stack.enter_context(_recording(recorders[speaker]))
        yield Servers(recorders, urls, f"{shop}/mcp")


@contextmanager
def _process(speaker: str, tools: list[str]) -> Iterator[str]:
    with tempfile.TemporaryDirectory() as state:
        # the date is part of every prompt: a fixed one gives the same answers every day
        words = (
            ["-m", "ossia", "serve", "--quiet", "--date", "2026-11-30"]
            if speaker == "mini"
            else ["-m", "tests.clients.stage"]
        )
        words = [
            sys.executable,
            *words,
            "--port",
            "0",
            "--state",
            state,
            *([] if speaker == "open" else ["--api-key", KEY, "--tools", TOOLS[speaker], *tools]),
        ]
        environment = {**os.environ, "PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}"}
        process = subprocess.Popen(words, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True)
        try:
            yield address_in(process)
        finally:
            process.terminate()
            if process.wait(40):
                raise RuntimeError(f"the server of {speaker} ended with status {process.returncode}")


@contextmanager
def _recording(recorder: Recorder) -> Iterator[str]:
    with _served(recorder.app()) as url:
        assert httpx.get(f"{url}/health").status_code == 200
        recorder.heard.clear()
        yield url


@contextmanager
def _served(app: Starlette) -> Iterator[str]:
    """An application in a thread, until the context ends. Yields its address."""
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="warning", timeout_graceful_shutdown=1))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    until(lambda: server.started, "the server in a thread listens")
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    thread.join(5)


def _shop() -> MCPServer:
    """An MCP server with one tool."""
    server = MCPServer("shop", log_level="ERROR")

    @server.tool()
    def add(a: int, b: int) -> int:
        """Add two numbers."""
        return a + b

    return server


def main() -> None:
    wanted = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    wanted.add_argument("clients", nargs="*", choices=[[], *(each.name for each in CLIENTS)], metavar="CLIENT")
    wanted.add_argument("--cache", type=Path, default=cache_folder(), help="where the environments are kept")
    given = wanted.parse_args()
    chosen = [each for each in CLIENTS if not given.clients or each.name in given.clients]
    failed = 0
    homes = {each.name: prepare(each, given.cache) for each in chosen}
    with servers() as both:
        for client in chosen:
            for speaker in speakers(client):
                for check in both.check(client, speaker, homes[client.name]):
                    failed += not check.ok
                    detail = "" if check.ok else f"\n      {check.detail}"
                    print(
                        f"{'ok  ' if check.ok else 'FAIL'} {check.client:14} {check.speaker:6} {check.name}{detail}",
                        flush=True,
                    )
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
