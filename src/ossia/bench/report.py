"""A `Report` as one JSON object, or as a page of text.

In: a `Report`. Out: plain values, or lines for a terminal.
It does not know how anything was measured.
"""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from ossia.bench.measure import CaseResult, EngineResult, Report, Spread, spread

_GIB = 1 << 30
_HEADINGS = ("", "tok/s", "% of read bandwidth", "% of int8 peak", "RSS", "cache")
_ON_CARD = ("", "tok/s", "% of copy bandwidth", "% of bf16 peak", "on the card", "cache")


def as_json(report: Report) -> dict[str, Any]:
    """Medians and spreads beside every single repetition; seconds, bytes, tokens a second."""
    return asdict(report) | {
        "cases": [_case_json(result) for result in report.cases],
        "engine": _engine_json(report.engine) if report.engine else None,
    }


def as_text(report: Report) -> str:
    r, m = report, report.machine
    made = "made and packed" if r.source == "random" else "loaded"
    dense = "" if r.backend == "reference" else f"{r.dense} dense weights, "
    where = m.card if r.backend == "triton" else f"{r.threads} threads"
    why = f" ({r.backend_reason})" if r.backend_reason else ""
    lines = [
        f"{r.model}{' (random weights)' if r.source == 'random' else ''}: {r.backend}{why}, {dense}{r.kv} cache, {where}",
        f"{m.processor}, {m.cores} cores, {_memory(m.memory_bytes)}, {m.system}, Python {m.python}",
        f"{made} in {r.load_seconds:.1f} s; weights {_memory(r.weight_bytes)}; peak RSS {_memory(r.peak_rss_bytes)}",
        f"a decoded token reads {_si(r.bytes_per_token)}B of weights; a prompt token takes {_si(r.macs_per_prompt_token)}MAC",
        "",
        *_columns([_ON_CARD if r.backend == "triton" else _HEADINGS, *map(_row, r.cases)]),
        "",
        *_machine_lines(r),
        *(_engine_lines(r.engine) if r.engine else ["one request   not measured in the engine"]),
        f"medians of {len(r.cases[0].rates)}, with the lowest and the highest; shares are of what was measured just "
        "before and after",
    ]
    return "\n".join(line.rstrip() for line in lines)


def _row(result: CaseResult) -> tuple[str, ...]:
    bandwidth = result.bandwidth_share
    return (
        result.case.name,
        _span(spread(result.rates)),
        _span(bandwidth, 0.01) if bandwidth else "",
        _span(result.peak_share, 0.01),
        _memory(result.rss_bytes if result.card_bytes is None else result.card_bytes),
        _memory(result.cache_bytes),
    )


def _columns(rows: Sequence[tuple[str, ...]]) -> list[str]:
    """Aligned: the first column to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows)]
    return [row[0].ljust(widths[0]) + "".join(f"  {cell:>{w}}" for cell, w in zip(row[1:], widths[1:])) for row in rows]


def _machine_lines(report: Report) -> list[str]:
    probes = [rates for result in report.cases for rates in result.machine]
    reads, peaks = spread([p.bandwidth for p in probes]), spread([p.peak for p in probes])
    if report.backend == "triton":
        return [f"this card     copies {_span(reads, 1e9)} GB/s, read and written; bf16 {_span(peaks, 1e12)} TMAC/s"]
    return [f"this machine  reads {_span(reads, 1e9)} GB/s; int8 peak {_span(peaks, 1e9)} GMAC/s"]


def _engine_lines(engine: EngineResult) -> list[str]:
    return [
        f"one request   first token of {engine.prompt_tokens} after {_span(spread(engine.first_token_seconds), 1e-3)} ms; "
        f"{_span(spread(engine.rates), 1)} tok/s",
        f"engine        adds {_span(spread(engine.overhead_seconds), 1e-3)} ms a token to the model's time, sampling included",
    ]


def _case_json(result: CaseResult) -> dict[str, Any]:
    bandwidth = result.bandwidth_share
    return {
        "name": result.case.name,
        **asdict(result.case),
        "tokens_per_second": spread(result.rates)._asdict(),
        "bandwidth_share": bandwidth._asdict() if bandwidth else None,
        "peak_share": result.peak_share._asdict(),
        "read_bandwidth": spread([rates.bandwidth for rates in result.machine])._asdict(),
        "peak": spread([rates.peak for rates in result.machine])._asdict(),
        "bytes_per_token": result.bytes_per_token,
        "macs_per_token": result.macs_per_token,
        "rss_bytes": result.rss_bytes,
        "card_bytes": result.card_bytes,
        "cache_bytes": result.cache_bytes,
        "repetitions": [
            {"tokens_per_second": rate, **rates._asdict()}
            for rate, rates in zip(result.rates, result.machine, strict=True)
        ],
    }


def _engine_json(engine: EngineResult) -> dict[str, Any]:
    return asdict(engine) | {
        "first_token_seconds": spread(engine.first_token_seconds)._asdict(),
        "tokens_per_second": spread(engine.rates)._asdict(),
        "overhead_seconds": spread(engine.overhead_seconds)._asdict(),
    }


def _span(values: Spread, unit: float = 1.0) -> str:
    median, low, high = (_rate(value / unit) for value in values)
    return f"{median} ({low}–{high})"


def _rate(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def _memory(count: float) -> str:
    return f"{count / _GIB:.2f} GiB" if count >= _GIB else f"{count / (1 << 20):.1f} MiB"


def _si(value: float) -> str:
    for unit, name in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= unit:
            return f"{value / unit:.2f} {name}"
    return f"{value:.0f} "
