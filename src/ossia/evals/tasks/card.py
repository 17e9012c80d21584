"""Scores that the gpt-oss model card prints, as `PublishedScore`s, and figures by tag.

In: a row of the card's Table 3, or graded rows. Out: scores for each model and effort, or a mean for each tag.
"""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from ossia.evals.core.benchmark import GradedRow, PublishedScore
from ossia.harmony.messages import Effort

CARD = "gpt-oss model card, arXiv:2508.10925, Table 3"
EFFORTS: tuple[Effort, ...] = ("low", "medium", "high")


def card_row(
    large: Sequence[float],
    small: Sequence[float],
    *,
    o3_mini: float = 0,
    o4_mini: float = 0,
    o3: float = 0,
    note: str = "",
) -> tuple[PublishedScore, ...]:
    """A row of the table: three efforts of the 120b and of the 20b, then the others at high effort; 0 if not printed."""
    ours = [
        PublishedScore(model, effort, value, CARD, note)
        for model, values in (("gpt-oss-120b", large), ("gpt-oss-20b", small))
        for effort, value in zip(EFFORTS, values, strict=True)
    ]
    others = {"o3-mini": o3_mini, "o4-mini": o4_mini, "o3": o3}
    return (*ours, *(PublishedScore(name, "high", value, CARD, note) for name, value in others.items() if value))


def means_by_tag(rows: Sequence[GradedRow]) -> dict[str, float]:
    """The mean score of each tag, by name."""
    scores: dict[str, list[float]] = defaultdict(list)
    for row in rows:
        for tag in row.tags:
            scores[tag].append(row.grade.score)
    return {tag: sum(values) / len(values) for tag, values in sorted(scores.items())}


def by_tag(rows: Sequence[GradedRow]) -> dict[str, Any]:
    """An aggregate: the mean of each tag."""
    return {"by_tag": means_by_tag(rows)}
