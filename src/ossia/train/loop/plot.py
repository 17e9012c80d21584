"""Curves of a log as one HTML file: inline SVG, no script, nothing to download.

Input: a title and rows of numbers by name, each with its step. Output: HTML text.
"""

import math
from collections.abc import Sequence
from html import escape
from typing import Any

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 460, 220, 64, 12, 10, 26
STYLE = """
:root { color-scheme: light dark }
body { font: 14px system-ui, sans-serif; margin: 2rem; max-width: 100rem }
main { display: flex; flex-wrap: wrap; gap: 1.5rem }
figure { margin: 0 } figcaption { font-weight: 600; margin-bottom: .3rem }
svg { display: block; max-width: 100% } text { fill: currentColor; font-size: 11px }
.grid { stroke: currentColor; opacity: .15 } .raw { stroke: #4080d0; opacity: .35 } .mean { stroke: #4080d0; stroke-width: 1.8 }
path { fill: none }
"""
SMOOTH = 0.9  # of the running mean drawn over the points


def metrics_page(title: str, rows: Sequence[dict[str, Any]]) -> str:
    """A figure for each metric. Rows without the metric are skipped in its curve."""
    names = dict.fromkeys(name for row in rows for name in row if name != "step")
    figures = []
    for name in names:
        points = [(float(row["step"]), float(row[name])) for row in rows if math.isfinite(row.get(name, math.nan))]
        if points:
            figures.append(_figure(name, points))
    last = f"<p>{len(rows)} reports, the last at step {rows[-1]['step']}.</p>" if rows else "<p>Nothing logged yet.</p>"
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{escape(title)}</title><style>{STYLE}</style>'
        f"<h1>{escape(title)}</h1>{last}<main>{''.join(figures)}</main></html>\n"
    )


def _figure(name: str, points: Sequence[tuple[float, float]]) -> str:
    steps, values = [x for x, _ in points], [y for _, y in points]
    x_of = _scale(min(steps), max(steps), LEFT, WIDTH - RIGHT)
    ticks = _ticks(min(values), max(values))
    y_of = _scale(min(ticks[0], *values), max(ticks[-1], *values), HEIGHT - BOTTOM, TOP)
    parts = []
    for tick in ticks:
        y = y_of(tick)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{tick:.4g}</text>')
    for anchor, step in (("start", min(steps)), ("end", max(steps))):
        parts.append(f'<text x="{x_of(step):.1f}" y="{HEIGHT - 6}" text-anchor="{anchor}">{step:.0f}</text>')
    for kind, drawn in (("raw", values), ("mean", _smoothed(values))):
        line = " ".join(f"{x_of(x):.1f},{y_of(y):.1f}" for x, y in zip(steps, drawn))
        parts.append(f'<path class="{kind}" d="M{line}"/>')
    label = f"{escape(name)}: {values[-1]:.5g}"
    return (
        f'<figure><figcaption>{label}</figcaption><svg role="img" aria-label="{label}" width="{WIDTH}" height="{HEIGHT}" '
        f'viewBox="0 0 {WIDTH} {HEIGHT}">{"".join(parts)}</svg></figure>'
    )


def _scale(low: float, high: float, begin: float, end: float) -> Any:
    span = (high - low) or 1.0
    return lambda value: begin + (value - low) / span * (end - begin)


def _ticks(low: float, high: float) -> list[float]:
    """About five round numbers that reach from below `low` to above `high`."""
    if high <= low:
        high = low + (abs(low) or 1.0)
    rough = (high - low) / 4
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough)
    first = math.floor(low / step)
    return [step * i for i in range(first, math.ceil(high / step) + 1)]


def _smoothed(values: Sequence[float]) -> list[float]:
    """An exponential moving average, corrected for the bias of its start."""
    means, total, weight = [], 0.0, 0.0
    for value in values:
        total, weight = SMOOTH * total + value, SMOOTH * weight + 1
        means.append(total / weight)
    return means
