"""Hours of hostile and ordinary traffic at once: whether an answer is lost, and whether memory stays flat.

It starts `ossia serve` with ossia-mini. Two clients ask ordinary questions over all four APIs, with tools, forms and kept
responses. Each must end as it does on a quiet server, or in 429 or 503 and then, tried again, so. Beside them one attack at a
time is drawn from `attacks.py`. All of it is bounded, and goes to this machine alone.
Run: python benchmarks/soak.py --minutes 100 [--seed 0]
"""

import argparse
import asyncio
import json
import random
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import psutil
from attacks import ATTACKER, ATTACKS, KEYS, ORDINARY, Answered, Target

from server import server

OPTIONS = ("--max-num-seqs", "16", "--max-queued", "64", "--request-timeout", "30", "--write-timeout", "10",
           "--prefix-cache-gb", "0.05", "--state-gb", "0.1")  # fmt: skip
TRIES = 20  # of a request that gets 429 or 503
FLAT = 100 << 20  # bytes that memory may grow from the second third to the last
SCHEMA = {
    "type": "object",
    "properties": {"sum": {"type": "integer"}},
    "required": ["sum"],
    "additionalProperties": False,
}
TOOL = {"name": "add", "description": "Add two numbers.", "parameters": {
    "type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}}, "required": ["a", "b"]}}  # fmt: skip


@dataclass
class Question:
    """An ordinary request, and how its answer is read. It is sampled greedily, so it has one answer."""

    name: str
    path: str
    body: dict[str, Any]
    read: Callable[[Answered], str]


class Incomplete(ValueError):
    """An answer without its end."""


def events(answered: Answered) -> list[dict[str, Any]]:
    lines = answered.body.decode().split("\n")
    return [json.loads(line[6:]) for line in lines if line.startswith("data: {")]


def whole(condition: bool) -> None:
    if not condition:
        raise Incomplete


def read_chat(answered: Answered) -> str:
    choice = answered.json["choices"][0]
    whole(choice["finish_reason"] in ("stop", "length", "tool_calls"))
    calls = choice["message"].get("tool_calls") or []
    return str(choice["message"]["content"]) + "".join(call["function"]["arguments"] for call in calls)


def read_chat_stream(answered: Answered) -> str:
    whole(answered.body.endswith(b"data: [DONE]\n\n"))
    return "".join(choice["delta"].get("content") or "" for event in events(answered) for choice in event["choices"])


def read_completion(answered: Answered) -> str:
    whole(answered.body.endswith(b"data: [DONE]\n\n"))
    return "".join(choice["text"] for event in events(answered) for choice in event["choices"])


def read_response(answered: Answered) -> str:
    whole(answered.json["status"] in ("completed", "incomplete"))
    parts = [part for item in answered.json["output"] for part in item.get("content", ())]
    return "".join(part["text"] for part in parts if part["type"] == "output_text")


def read_response_stream(answered: Answered) -> str:
    last = events(answered)[-1]
    whole(last["type"] in ("response.completed", "response.incomplete"))
    return read_response(Answered(body=json.dumps(last["response"]).encode()))


def read_messages(answered: Answered) -> str:
    told = events(answered)
    whole(told[-1]["type"] == "message_stop")
    return "".join(event["delta"].get("text", "") for event in told if event["type"] == "content_block_delta")


def questions() -> list[Question]:
    asked: list[Question] = []
    for number in range(6):
        a, b = 17 + 31 * number, 25 + 7 * number
        text = f"What is {a} + {b}?"
        messages = [{"role": "user", "content": text}]
        greedy = {"temperature": 0}
        form = {"type": "json_schema", "json_schema": {"name": "sum", "strict": True, "schema": SCHEMA}}
        tools = {"tools": [{"type": "function", "function": TOOL}], "tool_choice": "required"}
        response = {"input": text, "max_output_tokens": 200, **greedy}
        completion = {"prompt": text, "max_tokens": 60, "stream": True, **greedy}
        message = {"messages": messages, "max_tokens": 200, "stream": True, **greedy}
        streamed = {**response, "stream": True}
        chat = {"messages": messages, "max_tokens": 200, **greedy}
        asked += [
            Question("chat", "/v1/chat/completions", chat, read_chat),
            Question("chat, streamed", "/v1/chat/completions", {**chat, "stream": True}, read_chat_stream),
            Question("chat, form", "/v1/chat/completions", {**chat, "response_format": form}, read_chat),
            Question("chat, tools", "/v1/chat/completions", {**chat, **tools}, read_chat),
            Question("completions", "/v1/completions", completion, read_completion),
            Question("responses", "/v1/responses", response, read_response),
            Question("responses, streamed", "/v1/responses", streamed, read_response_stream),
            Question("messages", "/v1/messages", message, read_messages),
        ]  # fmt: skip
    return asked


@dataclass
class Counts:
    """Of ordinary requests, by how they ended; of attacks; and memory each minute."""

    ends: Counter[str] = field(default_factory=Counter)
    refusals: Counter[str] = field(default_factory=Counter)
    attacks: Counter[str] = field(default_factory=Counter)
    memory: list[int] = field(default_factory=list)
    slowest: float = 0.0
    lost: list[str] = field(default_factory=list)


async def ordinary(target: Target, question: Question, expected: str, counts: Counts) -> None:
    """One question; refusals are tried again."""
    for _ in range(TRIES):
        answered = await target.post(question.path, question.body)
        if answered.status not in (429, 503):
            break
        counts.refusals[f"{answered.status} {answered.code}"] += 1
        await asyncio.sleep(min(float(answered.headers.get("retry-after", 1)), 5))
    counts.slowest = max(counts.slowest, answered.seconds)
    try:
        ended = "correct" if answered.status == 200 and question.read(answered) == expected else "lost"
    except (ValueError, KeyError, IndexError, TypeError):
        ended = "lost"
    counts.ends[ended] += 1
    if ended == "lost":
        shown = answered.body[:200] + b" ... " + answered.body[-200:]
        counts.lost.append(f"{question.name}: {answered.status} {shown!r}")
        print("LOST", counts.lost[-1], flush=True)


async def kept(target: Target, expected: str, counts: Counts) -> None:
    """A response that is kept, found, continued and deleted."""
    first = Question("responses, kept", "/v1/responses", questions()[5].body, read_response)
    await ordinary(target, first, expected, counts)
    made = await target.post(first.path, first.body)
    if made.status != 200:
        counts.refusals[f"{made.status} {made.code}"] += 1
        return
    own = made.json["id"]
    found = await target.send(f"/v1/responses/{own}", b"", "GET")
    more = {"input": "And 1 more?", "previous_response_id": own, "max_output_tokens": 50, "temperature": 0}
    answered = await target.post("/v1/responses", more)
    gone = await target.send(f"/v1/responses/{own}", b"", "DELETE")
    statuses = [found.status, answered.status, gone.status]
    good = all(status in (200, 429, 503) for status in statuses)
    counts.ends["correct" if good else "lost"] += 1
    if not good:
        counts.lost.append(f"kept: {statuses} {answered.body[:300]!r}")
        print("LOST", counts.lost[-1], flush=True)


async def leave(target: Target, rng: random.Random) -> str:
    """An ordinary client that hangs up in the middle of a stream."""
    body = json.dumps({**questions()[1].body, "temperature": 1}).encode()
    reader, writer = await asyncio.open_connection(target.host, target.port)
    try:
        writer.write(target.head("/v1/chat/completions", len(body)) + body)
        await asyncio.wait_for(reader.read(rng.randrange(1, 4000)), 20)
    finally:
        writer.close()
    return "left"


async def soak(target: Target, process: psutil.Process, minutes: float, seed: int) -> Counts:
    counts, asked, expected = Counts(), questions(), {}
    for number, question in enumerate(asked):
        answered = await target.post(question.path, question.body)
        expected[number] = question.read(answered)
    end = time.perf_counter() + 60 * minutes

    async def until_end(work: Callable[[random.Random], Awaitable[object]], pause: float, own: int) -> None:
        rng = random.Random(seed * 1000 + own)
        while time.perf_counter() < end:
            await work(rng)
            await asyncio.sleep(pause * rng.random())

    async def ask(rng: random.Random) -> None:
        number = rng.randrange(len(asked) + 2)
        if number < len(asked):
            await ordinary(target, asked[number], expected[number], counts)
        else:
            await kept(target, expected[5], counts)

    async def attack(rng: random.Random) -> None:
        name = rng.choice([*ATTACKS, "hang-up"])
        counts.attacks[name] += 1
        own = Target(target.host, target.port, rng.choice((ATTACKER, ATTACKER, ORDINARY)))
        try:
            await asyncio.wait_for((ATTACKS.get(name) or leave)(own, rng), 90)
        except (OSError, TimeoutError, ValueError, KeyError, IndexError) as error:
            print(f"  {name}: {type(error).__name__} {error}", flush=True)

    watching = asyncio.ensure_future(watch(process, counts))
    await asyncio.gather(until_end(ask, 0.5, 1), until_end(ask, 0.5, 2), until_end(attack, 2, 3))
    watching.cancel()
    await asyncio.sleep(30)
    counts.memory.append(process.memory_info().rss)
    return counts


async def watch(process: psutil.Process, counts: Counts) -> None:
    for minute in range(10**6):
        counts.memory.append(process.memory_info().rss)
        held = f"{counts.memory[-1] / 2**20:6.0f} MiB  {process.num_threads()} threads  {process.num_fds()} files"
        told = f"{dict(counts.ends)}  refused {counts.refusals.total()}  slowest {counts.slowest:.1f} s"
        print(f"{minute:4d} min  {held}  {told}", flush=True)
        await asyncio.sleep(60)


def report(counts: Counts) -> bool:
    print(f"ordinary: {dict(counts.ends)}; told to come back: {dict(counts.refusals)}; slowest {counts.slowest:.1f} s")
    print(f"attacks: {dict(counts.attacks)}")
    third = max(1, len(counts.memory) // 3)
    middle, last = (
        statistics.median(part) for part in (counts.memory[third : 2 * third] or counts.memory, counts.memory[-third:])
    )
    flat = last - middle <= FLAT
    print(f"memory: first {counts.memory[0] / 2**20:.0f}, second third {middle / 2**20:.0f}, last third {last / 2**20:.0f}, "
          f"30 s after the end {counts.memory[-1] / 2**20:.0f} MiB: {'flat' if flat else 'it grows'}")  # fmt: skip
    return flat and not counts.lost


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=100)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, server("--state", folder, *OPTIONS, *KEYS) as (process, host, port):
        counts = asyncio.run(soak(Target(host, port, ORDINARY), process, given.minutes, given.seed))
    raise SystemExit(0 if report(counts) else 1)


if __name__ == "__main__":
    main()
