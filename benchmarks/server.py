"""What the server costs: a token's overhead, many streams at once, and ten thousand requests of which some hang up.

It starts a real `ossia serve` with ossia-mini and speaks HTTP to it over loopback, from a process of its own on the same
machine. Prompts kept for reuse are held to 50 MB, so that memory shows what is not given back.
Run: python benchmarks/server.py [--requests 10000] [--streams 256]
With --hostile it runs `hostile.py` instead: what one client sees while others attack.
"""

import argparse
import asyncio
import json
import random
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import psutil

from ossia.chat import TurnOptions, turn_grammar
from ossia.engine.request import SamplingParams
from ossia.harmony.grammar import GrammarCache
from ossia.harmony.messages import user
from ossia.harmony.render import render
from ossia.loading import load
from ossia.server.core.request import conversation

QUESTION = "What is 4821 + 999?"
LEAVERS = 0.05


@dataclass
class Reading:
    """One streamed answer: when each of its events came, and whether it was whole."""

    asked: float
    status: int = 0
    times: list[float] = field(default_factory=list)
    whole: bool = False
    left: bool = False

    @property
    def first(self) -> float:
        return self.times[0] - self.asked

    @property
    def gaps(self) -> list[float]:
        return [after - before for before, after in zip(self.times, self.times[1:])]


@contextmanager
def server(*options: str) -> Iterator[tuple[psutil.Process, str, int]]:
    """A running `ossia serve`: its process, host and port."""
    command = [sys.executable, "-m", "ossia", "serve", "--port", "0", "--quiet", *options]
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
        try:
            assert process.stdout is not None
            url = urlsplit(process.stdout.readline().split(" at ")[1].split(",")[0])
            yield psutil.Process(process.pid), str(url.hostname), int(url.port or 0)
        finally:
            process.terminate()
            status = process.wait(60)
            log.seek(0)
            print(
                f"the server left with {status}"
                + "".join(f"\n  {line.decode()}" for line in log.readlines()[:20]).rstrip()
            )


async def stream(
    host: str, port: int, body: dict[str, object], leave_after: int | None = None, key: str = "none"
) -> Reading:
    """Ask for a streamed chat and note when events come. leave_after: hang up after so many."""
    reader, writer = await asyncio.open_connection(host, port)
    data = json.dumps({"stream": True, **body}).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\nauthorization: Bearer {key}\r\n"
    head += f"content-length: {len(data)}\r\n\r\n"
    reading = Reading(time.perf_counter())
    writer.write(head.encode() + data)
    tail = b""
    try:
        while piece := await reader.read(65536):
            now = time.perf_counter()
            reading.status = reading.status or int(piece.split(b" ", 2)[1])
            tail = (tail + piece)[-200:]
            # the first event has the role alone, the last ones no text: close enough for what is counted here
            reading.times += [now] * piece.count(b'"delta":{"')
            if leave_after is not None and len(reading.times) >= leave_after:
                reading.left = True
                break
        reading.whole = b"data: [DONE]" in tail
    finally:
        writer.close()
    return reading


def chat(text: str, **more: object) -> dict[str, object]:
    return {"messages": [{"role": "user", "content": text}], **more}


@dataclass
class Cost:
    """Of one stream's tokens: seconds between them, and processor seconds of the whole process for each."""

    seconds: float
    processor: float

    def __str__(self) -> str:
        return f"{self.seconds * 1e6:.0f} µs, processor time {self.processor * 1e6:.0f} µs"


def engine_alone(repeats: int) -> tuple[Cost, int]:
    """The same answers with the same masks, from the engine without any server; and how many tokens they have."""
    model = load()
    assert model.tokenizer is not None
    engine, grammars = model.engine(), GrammarCache(model.tokenizer, model.config.vocab)
    how = TurnOptions(SamplingParams(stop_tokens=model.stop_tokens, temperature=0.0))
    messages = conversation("medium", [user(QUESTION)])
    prompt, rules = render(model.tokenizer, messages, "assistant"), turn_grammar(grammars, messages, how)

    def answer() -> list[float]:
        return [time.perf_counter() for _ in engine.submit(prompt, how.params, rules.start())]

    count = len(answer())
    answer()
    before = processor_time(psutil.Process())
    taken = [times[-1] - times[0] for times in (answer() for _ in range(repeats))]
    processor = processor_time(psutil.Process()) - before
    return Cost(statistics.median(taken) / (count - 1), processor / repeats / count), count


def processor_time(process: psutil.Process) -> float:
    times = process.cpu_times()
    return times.user + times.system


async def served(host: str, port: int, process: psutil.Process, repeats: int, tokens: int) -> Cost:
    """The same answers, streamed."""
    for _ in range(2):
        await stream(host, port, chat(QUESTION, temperature=0))
    taken = []
    before = processor_time(process)
    for _ in range(repeats):
        reading = await stream(host, port, chat(QUESTION, temperature=0))
        assert reading.whole
        taken.append(reading.times[-1] - reading.times[0])
    processor = processor_time(process) - before
    return Cost(statistics.median(taken) / (tokens - 1), processor / repeats / tokens)


async def crowd(host: str, port: int, streams: int) -> None:
    rng = random.Random(0)
    asks = [chat(f"What is {rng.randrange(10_000)} + {rng.randrange(10_000)}?", seed=n) for n in range(streams)]
    started = time.perf_counter()
    readings = await asyncio.gather(*[stream(host, port, ask) for ask in asks])
    seconds = time.perf_counter() - started
    assert all(reading.whole for reading in readings), f"{sum(not r.whole for r in readings)} answers were not whole"
    events = sum(len(reading.times) for reading in readings)
    print(f"{streams} streams at once: {events} events in {seconds:.2f} s, {events / seconds:.0f}/s")
    print(row("  to the first token", [reading.first for reading in readings]))
    print(row("  between tokens", [gap for reading in readings for gap in reading.gaps]))


async def endurance(host: str, port: int, process: psutil.Process, requests: int, at_once: int) -> None:
    rng = random.Random(1)
    gate, memory, started = asyncio.Semaphore(at_once), [process.memory_info().rss], time.perf_counter()
    counts = {"whole": 0, "left": 0, "lost": 0}

    async def one(number: int) -> None:
        leave = rng.randrange(1, 12) if rng.random() < LEAVERS else None
        ask = chat(f"What is {rng.randrange(1000)} + {rng.randrange(1000)}?", seed=number, max_tokens=32)
        async with gate:
            reading = await stream(host, port, ask, leave)
        counts["left" if reading.left else "whole" if reading.whole else "lost"] += 1
        done = sum(counts.values())
        if done % max(1, requests // 10) == 0:
            memory.append(process.memory_info().rss)
            print(
                f"  {done:6d} done, {memory[-1] / 2**20:7.1f} MiB, {time.perf_counter() - started:6.1f} s", flush=True
            )

    await asyncio.gather(*[one(number) for number in range(requests)])
    print(f"{requests} requests, {at_once} at once: {counts}, {requests / (time.perf_counter() - started):.0f}/s")
    grown = memory[-1] - memory[len(memory) // 2]
    print(f"  memory grew by {grown / 2**20:.1f} MiB over the second half")
    metrics = await metrics_of(host, port)
    held = {
        name: metrics[name]
        for name in ("ossia_running", "ossia_waiting", "ossia_kv_used_ratio", "ossia_cancelled_total")
    }
    print(f"  afterwards: {held}")
    assert counts["lost"] == 0


async def lags_of(host: str, port: int, key: str = "none") -> dict[float, float]:
    """Histogram: seconds by which a timer of the event loop was late."""
    text = await metrics_text(host, port, key)
    return {
        float(bound): float(count)
        for bound, count in re.findall(r'^ossia_event_loop_lag_seconds_bucket{le="(\S+)"} (\S+)$', text, re.MULTILINE)
    }


async def metrics_of(host: str, port: int) -> dict[str, float]:
    text = await metrics_text(host, port)
    return {name: float(value) for name, value in re.findall(r"^(ossia_\w+) (\S+)$", text, re.MULTILINE)}


async def metrics_text(host: str, port: int, key: str = "none") -> str:
    reader, writer = await asyncio.open_connection(host, port)
    head = f"GET /metrics HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\nauthorization: Bearer {key}\r\n\r\n"
    writer.write(head.encode())
    text = (await reader.read(-1)).decode()
    writer.close()
    return text


def row(label: str, seconds: Sequence[float]) -> str:
    ordered = sorted(seconds)
    at = {
        name: ordered[min(len(ordered) - 1, int(share * len(ordered)))] for name, share in (("p50", 0.5), ("p99", 0.99))
    }
    return f"{label:24s} " + "  ".join(f"{name} {value * 1e3:8.2f} ms" for name, value in at.items())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--streams", type=int, default=256)
    parser.add_argument("--at-once", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--hostile", action="store_true", help="what a client sees while others attack")
    parser.add_argument("--only", default="", help="with --hostile: attacks whose name holds this")
    given = parser.parse_args()
    if given.hostile:
        from hostile import run

        raise SystemExit(0 if run(given.only) else 1)
    alone, tokens = engine_alone(given.repeats)
    with (
        tempfile.TemporaryDirectory() as folder,
        server("--state", folder, "--prefix-cache-gb", "0.05") as (process, host, port),
    ):
        asyncio.run(measure(given, process, host, port, alone, tokens))


async def measure(
    given: argparse.Namespace, process: psutil.Process, host: str, port: int, alone: Cost, tokens: int
) -> None:
    streamed = await served(host, port, process, given.repeats, tokens)
    print(f"a token of one stream ({tokens} tokens)")
    print(f"  engine alone: {alone}")
    print(f"  streamed:     {streamed}")
    more = Cost(streamed.seconds - alone.seconds, streamed.processor - alone.processor)
    print(f"  overhead:     {more}")
    await crowd(host, port, given.streams)
    await endurance(host, port, process, given.requests, given.at_once)


if __name__ == "__main__":
    main()
