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

from tests.clients.environments import CLIENTS, HERE, Client, cache_folder, command, prepare
from tests.clients.recorder import Recorder, complaints
from tests.support.processes import address_in
from tests.support.waiting import until

ROOT = HERE.parents[1]
KEY = "a-key-for-tests"
MODELS = {"mini": "ossia-mini", "actor": "gpt-oss-20b", "open": "gpt-oss-20b"}


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

    def check(self, client: Client, speaker: str, home: Path) -> list[Check]:
        """All checks of one client, with what OpenAI's types say to the answers as the last."""
        recorder = self.recorders[speaker]
        recorder.heard.clear()
        words = [*command(client, home), f"{self.urls[speaker]}/v1", MODELS[speaker], speaker, KEY, str(home)]
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
    """`ossia serve` with ossia-mini, and the same server with the actor, with a key and without."""
    with ExitStack() as stack:
        urls, recorders = {}, {}
        for speaker in MODELS:
            target = stack.enter_context(_process(speaker))
            recorders[speaker] = Recorder(target)
            urls[speaker] = stack.enter_context(_recording(recorders[speaker]))
        yield Servers(recorders, urls)


@contextmanager
def _process(speaker: str) -> Iterator[str]:
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
            *([] if speaker == "open" else ["--api-key", KEY]),
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
    server = uvicorn.Server(uvicorn.Config(recorder.app(), port=0, log_level="warning", timeout_graceful_shutdown=1))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    until(lambda: server.started, "the recorder listens")
    url = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    assert httpx.get(f"{url}/health").status_code == 200
    recorder.heard.clear()
    yield url
    server.should_exit = True
    thread.join(5)


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
