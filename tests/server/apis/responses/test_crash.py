"""A server killed in mid-stream, again and again: what it had finished is all there, what it had not says so."""

import json
import os
import queue
import random
import signal
import subprocess
import threading
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest

from tests.support.processes import server_process
from tests.support.responses import checked

STREAMS = 8
LAST = ("response.completed", "response.incomplete")
UNFINISHED = ("queued", "in_progress")


@dataclass
class Reader(threading.Thread):
    """Asks for one answer after another, and notes what it was told of each."""

    url: str
    background: bool
    news: "queue.Queue[None]"
    begun: set[str] = field(default_factory=set)
    finished: dict[str, dict[str, object]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__init__(daemon=True)

    __hash__ = threading.Thread.__hash__

    def run(self) -> None:
        body = {"input": f"What is {random.randrange(99)} + 4?", "stream": True, "background": self.background}
        try:
            while True:
                with httpx.stream("POST", f"{self.url}/v1/responses", json=body, timeout=60) as answer:
                    for line in answer.iter_lines():
                        if line.startswith("data: "):
                            self.hear(json.loads(line.removeprefix("data: ")))
        except httpx.HTTPError:
            return  # the server is gone

    def hear(self, event: dict[str, object]) -> None:
        response = event.get("response")
        if isinstance(response, dict):
            self.begun.add(response["id"])
            if event["type"] in LAST:
                self.finished[response["id"]] = response
        self.news.put(None)


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="kill -9 is POSIX's")
def test_ten_times_killed_in_mid_stream(tmp_path: Path):
    begun: set[str] = set()
    finished: dict[str, dict[str, object]] = {}
    failed = 0
    for turn in range(11):
        with server_process("--state", str(tmp_path), "--quiet") as (process, url):
            for response in begun:
                kept = checked(httpx.get(f"{url}/v1/responses/{response}", timeout=60).json())
                assert kept["status"] not in UNFINISHED
                if response in finished:
                    assert kept == finished[response]
                elif kept["status"] == "failed":
                    failed += 1
                    assert kept["error"]["code"] == "server_error"
            if turn == 10:
                break
            begun, finished = killed(process, url)
    assert failed, "no answer was under way when the server was killed: the test tests nothing"


def killed(process: subprocess.Popen[str], url: str) -> tuple[set[str], dict[str, dict[str, object]]]:
    """Ask much of it, and kill it in the middle."""
    news: queue.Queue[None] = queue.Queue()
    readers = [Reader(url, background=number % 2 == 0, news=news) for number in range(STREAMS)]
    for reader in readers:
        reader.start()
    for _ in range(random.randrange(50, 800)):
        news.get(timeout=60)
    process.send_signal(signal.SIGKILL)
    for reader in readers:
        reader.join(timeout=60)
    begun = set().union(*(reader.begun for reader in readers))
    return begun, {key: value for reader in readers for key, value in reader.finished.items()}
