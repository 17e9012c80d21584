"""pass@k: the chance that one of k tries solves a problem, from n tries of each.

In: graded rows. Out: figures in percent, for each k up to the tries of the problem with the fewest.
"""

from collections.abc import Sequence
from math import comb
from typing import Any

from ossia.evals.core.benchmark import GradedRow

_KS = (1, 2, 4, 5, 8, 10, 16, 32, 64, 100)


def pass_at(k: int, tries: int, solved: int) -> float:
    """The unbiased estimate from `tries` of which `solved` passed: 1 - C(n-c, k) / C(n, k)."""
    if not 1 <= k <= tries:
        raise ValueError(f"pass@{k} needs at least {max(k, 1)} tries, and there are {tries}")
    return 1.0 - comb(tries - solved, k) / comb(tries, k)


def tries_of_problems(rows: Sequence[GradedRow]) -> dict[str, tuple[int, int]]:
    """For each problem its tries, and how many passed."""
    counts: dict[str, tuple[int, int]] = {}
    for row in rows:
        tries, solved = counts.get(row.sample, (0, 0))
        counts[row.sample] = tries + 1, solved + (row.grade.score == 1.0)
    return counts


def passing(rows: Sequence[GradedRow]) -> dict[str, Any]:
    """pass@k in percent, and how often each verdict was given."""
    counts = tries_of_problems(rows)
    fewest = min((tries for tries, _ in counts.values()), default=0)
    figures: dict[str, Any] = {
        f"pass@{k}": 100.0 * sum(pass_at(k, *each) for each in counts.values()) / len(counts)
        for k in _KS
        if k <= fewest
    }
    verdicts = [str(row.grade.metrics.get("verdict", "")) for row in rows]
    return {**figures, "verdicts": {name: verdicts.count(name) for name in sorted(set(verdicts)) if name}}
