"""Runs the cases and the engine, with the machine's own rates measured in between, and holds what came out.

In: a `Subject`, cases, a probe and how often to repeat. Out: a `Report`.
It does not know how a report is printed, or where a probe's figures come from.

A shared machine's bandwidth drifts within seconds, so a repetition is compared with the probes just before and after
it, and shares are medians of such pairs.
"""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from ossia.bench.counts import decode_bytes, prompt_macs
from ossia.bench.machine import Machine, peak_rss_bytes, rss_bytes, this_machine
from ossia.bench.passes import SHORT_PROMPT, BenchCase, Passes
from ossia.bench.probes import Probe, Rates
from ossia.bench.subject import Subject, plain_engine
from ossia.engine.engine import Engine
from ossia.engine.request import SamplingParams
from ossia.model.memory import cache_bytes, weight_bytes

FIRST_TOKEN_PROMPT = 512
ENGINE_TOKENS = 64  # decoded in the engine, and beside it without

Say = Callable[[str], None]


class Spread(NamedTuple):
    """Of repeated measurements."""

    median: float
    low: float
    high: float


def spread(values: Sequence[float]) -> Spread:
    return Spread(statistics.median(values), min(values), max(values))


@dataclass(frozen=True, slots=True)
class CaseResult:
    """Each repetition's tokens a second, and the machine's rates beside it; the shares are ratios pair by pair."""

    case: BenchCase
    rates: tuple[float, ...]
    machine: tuple[Rates, ...]
    bytes_per_token: float | None  # of a decoded token; a prompt's is bound by arithmetic
    macs_per_token: int
    rss_bytes: int
    card_bytes: int | None  # the most that was taken of a card so far
    cache_bytes: int

    @property
    def bandwidth_share(self) -> Spread | None:
        if self.bytes_per_token is None:
            return None
        pairs = zip(self.rates, self.machine, strict=True)
        return spread([rate * self.bytes_per_token / machine.bandwidth for rate, machine in pairs])

    @property
    def peak_share(self) -> Spread:
        pairs = zip(self.rates, self.machine, strict=True)
        return spread([rate * self.macs_per_token / machine.peak for rate, machine in pairs])


@dataclass(frozen=True, slots=True)
class EngineResult:
    """One request in the engine. `overhead_seconds`: of a token, against the model alone just before; sampling included."""

    prompt_tokens: int
    decoded_tokens: int
    first_token_seconds: tuple[float, ...]
    rates: tuple[float, ...]
    overhead_seconds: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Report:
    model: str
    source: str
    backend: str
    backend_reason: str  # why "auto" chose it
    dense: str
    kv: str
    threads: int
    machine: Machine
    load_seconds: float
    peak_rss_bytes: int
    weight_bytes: float
    bytes_per_token: float
    macs_per_prompt_token: int
    cases: tuple[CaseResult, ...]
    engine: EngineResult | None


def measure(
    subject: Subject,
    cases: Sequence[BenchCase],
    probe: Probe,
    *,
    threads: int,
    repeat: int = 5,
    with_engine: bool = True,
    say: Say = lambda _: None,
) -> Report:
    """Measure every case, then one request in the engine. `say` gets the name of each before it runs."""
    if repeat < 1:
        raise ValueError("--repeat must be at least 1")
    passes = Passes(subject.transformer, cases)
    results = tuple(_measure_case(subject, passes, case, probe, repeat, say) for case in cases)
    del passes
    engine = _measure_engine(subject, repeat, say) if with_engine else None
    return Report(
        model=subject.name,
        source=subject.source,
        backend=subject.backend,
        backend_reason=subject.reason,
        dense=subject.dense,
        kv=subject.formats.kv,
        threads=threads,
        machine=this_machine(has_card=subject.backend == "triton"),
        load_seconds=subject.load_seconds,
        peak_rss_bytes=peak_rss_bytes(),
        weight_bytes=weight_bytes(subject.config, subject.formats),
        bytes_per_token=decode_bytes(subject.config, subject.formats),
        macs_per_prompt_token=prompt_macs(subject.config),
        cases=results,
        engine=engine,
    )


def _measure_case(subject: Subject, passes: Passes, case: BenchCase, probe: Probe, repeat: int, say: Say) -> CaseResult:
    say(f"{case.name}: filling the cache" if case.depth else case.name)
    passes.prepare(case)
    probes, rates = [probe()], []
    for turn in range(repeat):
        say(f"{case.name}: {turn + 1} of {repeat}")
        rates.append(case.rows * case.tokens / passes.run(case))
        probes.append(probe())
    decodes = case.kind == "decode"
    config, formats = subject.config, subject.formats
    return CaseResult(
        case=case,
        rates=tuple(rates),
        machine=tuple(_mean(before, after) for before, after in pairwise(probes)),
        bytes_per_token=decode_bytes(config, formats, case.rows, case.middle) if decodes else None,
        macs_per_token=prompt_macs(config) + (config.vocab * config.hidden if decodes else 0),
        rss_bytes=rss_bytes(),
        card_bytes=subject.transformer.ops.held_bytes(),
        cache_bytes=case.rows * cache_bytes(config, formats.kv, case.end),
    )


def _mean(one: Rates, other: Rates) -> Rates:
    return Rates((one.bandwidth + other.bandwidth) / 2, (one.peak + other.peak) / 2)


def _measure_engine(subject: Subject, repeat: int, say: Say) -> EngineResult | None:
    """None for a model whose context cannot hold the two requests."""
    context = subject.config.max_context
    prompt, alone = min(FIRST_TOKEN_PROMPT, context - 1), BenchCase("decode", ENGINE_TOKENS)
    if alone.end > context:
        return None
    engine = plain_engine(subject.transformer, max(prompt + 1, alone.end))
    passes = Passes(subject.transformer, [alone])
    passes.prepare(alone)
    _request(engine, subject.config.vocab, SHORT_PROMPT, 2, seed=0)
    waits, rates, overheads = [], [], []
    for turn in range(repeat):
        say(f"engine: {turn + 1} of {repeat}")
        waits.append(_request(engine, subject.config.vocab, prompt, 1, seed=turn)[0])
        model_seconds = passes.run(alone) / alone.tokens
        times = _request(engine, subject.config.vocab, SHORT_PROMPT, alone.tokens + 1, seed=turn)
        token_seconds = (times[-1] - times[0]) / alone.tokens
        rates.append(1 / token_seconds)
        overheads.append(token_seconds - model_seconds)
    return EngineResult(prompt, alone.tokens, tuple(waits), tuple(rates), tuple(overheads))


def _request(engine: Engine, vocab: int, prompt: int, tokens: int, seed: int) -> list[float]:
    """Seconds from the submission of a random prompt to each of its tokens."""
    ids = np.random.default_rng(seed).integers(0, vocab, prompt).tolist()
    started = time.perf_counter()
    stream = engine.submit(ids, SamplingParams(seed=seed, max_tokens=tokens))
    return [time.perf_counter() - started for _ in stream]
