"""What a well-behaved client sees while others attack: first token, pauses, the event loop's lag, and memory.

It starts `ossia serve` with ossia-mini once for each attack and speaks to it over loopback. Goal: no pause beyond 0.5 s, and
memory back to within 100 MB after 30 s.
Run: python benchmarks/server.py --hostile [--only K4]
"""

import asyncio
import functools
import random
import resource
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import psutil
from attacks import ATTACKER, ATTACKS, KEYS, ORDINARY, Attack, Target, idle, large_bodies, said, silent

from server import chat, lags_of, server, stream

PAUSE, GROWTH = 0.5, 100 << 20
LAG = 0.02
OPTIONS = ("--max-num-seqs", "16", "--request-timeout", "15", "--prefix-cache-gb", "0.05", "--write-timeout", "10")
AFTER = 30.0  # seconds until memory is read again


@dataclass
class Seen:
    """By the client that streams, and by the one that asks for /health all the time."""

    firsts: list[float] = field(default_factory=list)
    gaps: list[float] = field(default_factory=list)
    waits: list[float] = field(default_factory=list)
    failed: int = 0
    late: str = ""  # of the event loop's timers


async def watch(target: Target, process: psutil.Process, seen: Seen, peak: list[int]) -> None:
    """Stream one answer after another, and note how long /health takes."""

    async def streams() -> None:
        for number in range(10**9):
            try:
                ask = chat(f"What is {number} + 7?", temperature=0, max_tokens=64)
                reading = await asyncio.wait_for(stream(target.host, target.port, ask, key=ORDINARY), 60)
                seen.failed += not reading.whole
                seen.firsts.append(reading.first if reading.times else 60.0)
                seen.gaps += reading.gaps
            except (OSError, TimeoutError, IndexError):
                seen.failed += 1
            await asyncio.sleep(0.05)

    async def health() -> None:
        while True:
            answered = await target.send("/health", b"", "GET", timeout=30)
            seen.waits.append(answered.seconds)
            peak[0] = max(peak[0], process.memory_info().rss)
            await asyncio.sleep(0.02)

    await asyncio.gather(streams(), health())


async def under(
    attack: Attack, target: Target, process: psutil.Process, seconds: float
) -> tuple[list[str], Seen, list[int]]:
    """The attack over and over for so long; memory before, at its peak, and afterwards."""
    for _ in range(3):
        await stream(target.host, target.port, chat("What is 1 + 1?", temperature=0, max_tokens=16), key=ORDINARY)
    before = process.memory_info().rss
    seen, peak, answers, rng = Seen(), [before], [], random.Random(0)
    lags = await lags_of(target.host, target.port, ORDINARY)
    watching = asyncio.ensure_future(watch(target, process, seen, peak))
    await asyncio.sleep(1)
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        answers.append(await attack(target, rng))
    watching.cancel()
    await asyncio.gather(watching, return_exceptions=True)
    seen.late = late(lags, await lags_of(target.host, target.port, ORDINARY))
    await asyncio.sleep(AFTER)
    return answers, seen, [before, peak[0], process.memory_info().rss]


def late(before: dict[float, float], after: dict[float, float]) -> str:
    """Of the timers in between: how many ran later than `LAG`, and a bound of the latest."""
    counts = {bound: after[bound] - before[bound] for bound in after}
    total = counts[float("inf")]
    worst = min(bound for bound, count in counts.items() if count == total)
    return f"{total - counts[LAG]:3.0f} of {total:4.0f}, <= {worst * 1e3:4.0f} ms"


def attacks() -> dict[str, Callable[[], Attack]]:
    """Each body on its own; as many silent readers as places; more connections than a usual limit of files."""

    def body(path: str, make: Callable[[], bytes]) -> Callable[[], Attack]:
        def prepare() -> Attack:
            made = make()  # beforehand: it would hold up the client that watches

            async def send(target: Target, _: random.Random) -> str:
                return said(await target.send(path, made))

            return send

        return prepare

    rest = {name: attack for name, attack in ATTACKS.items() if name != "K4, K6 large bodies"}
    rest["K1 silent readers"] = lambda target, rng: silent(target, rng, 16, 20)
    rest["K7 idle connections"] = lambda target, rng: idle(target, rng, 1100, 5)
    prepared = {name: functools.partial(lambda attack: attack, attack) for name, attack in rest.items()}
    return {**prepared, **{f"K4, K6 {name}": body(path, make) for name, (path, make) in large_bodies().items()}}


def run(only: str = "", seconds: float = 6.0) -> bool:
    """Whether the goals were met."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(1024, hard), hard))  # the server's, as most systems start it
    good = True
    print(f"{'attack':28s} {'first':>7s} {'pause':>7s} {'health':>7s} lost  ", end="")
    print(f"{'loop late by > 20 ms':24s}  RSS before / peak / after   answers")
    for name, prepare in attacks().items():
        if only not in name:
            continue
        attack = prepare()
        with (
            tempfile.TemporaryDirectory() as folder,
            server("--state", folder, *OPTIONS, *KEYS) as (process, host, port),
        ):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
            answers, seen, memory = asyncio.run(under(attack, Target(host, port, ATTACKER), process, seconds))
            resource.setrlimit(resource.RLIMIT_NOFILE, (min(1024, hard), hard))
        first, pause, lag = (max(each, default=0.0) for each in (seen.firsts, seen.gaps, seen.waits))
        mib = " / ".join(f"{each / 2**20:5.0f}" for each in memory)
        good = good and pause <= PAUSE and memory[2] - memory[0] <= GROWTH and not seen.failed
        times = f"{name:28s} {first:6.2f}s {pause:6.2f}s {lag:6.2f}s {seen.failed:4d}"
        print(f"{times}  {seen.late:24s}  {mib}   {answers[0]}", flush=True)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    print(
        "goals met" if good else f"goals missed: pauses of {PAUSE} s at most, {GROWTH >> 20} MB more at most, none lost"
    )
    return good
