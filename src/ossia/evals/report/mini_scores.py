"""Scores as a person and as a program read them: a table, and one JSON object.

In: scores by family, split and effort. Out: Markdown, or a dict; accuracies with their 95 % confidence intervals.
It does not know how the scores came about.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from ossia.evals.mini import Score
from ossia.evals.stats.intervals import wilson
from ossia.harmony.messages import Effort
from ossia.task import EFFORTS, SPLITS, Split

CALLS = ("one function", "several functions")
NO_CALLS = ("no function",)


def as_json(scores: Sequence[Score], model: str, seed: int, temperature: float) -> dict[str, Any]:
    """`accuracy` over train families, `held_accuracy` over held templates, `mean_analysis_tokens`: each by effort."""
    efforts = efforts_of(scores)
    families: dict[str, Any] = {}
    for score in scores:
        family = families.setdefault(score.family, {}).setdefault(score.split, {})
        family[score.effort] = _measured([score])
    return {
        "model": model,
        "seed": seed,
        "temperature": temperature,
        "accuracy": {effort: _accuracy(scores, effort, "train") for effort in efforts},
        "held_accuracy": {effort: _accuracy(scores, effort, "held") for effort in efforts},
        "mean_analysis_tokens": {
            effort: _measured(_at(scores, effort, "train"))["analysis_tokens"] for effort in efforts
        },
        "intervals": {
            split: {effort: _measured(_at(scores, effort, split))["interval"] for effort in efforts} for split in SPLITS
        },
        "calls_accuracy": _by_split(scores, CALLS),
        "no_call_accuracy": _by_split(scores, NO_CALLS),
        "families": families,
    }


def _by_split(scores: Sequence[Score], families: Sequence[str]) -> Mapping[Split, Mapping[Effort, float]]:
    """Of some families alone; empty where none of them was asked."""
    chosen = [score for score in scores if score.family in families]
    return {split: {effort: _accuracy(chosen, effort, split) for effort in efforts_of(chosen)} for split in SPLITS}


def efforts_of(scores: Sequence[Score]) -> list[Effort]:
    return [effort for effort in EFFORTS if any(score.effort == effort for score in scores)]


def _at(scores: Sequence[Score], effort: Effort, split: Split) -> list[Score]:
    return [score for score in scores if (score.effort, score.split) == (effort, split)]


def _accuracy(scores: Sequence[Score], effort: Effort, split: Split) -> float:
    return float(_measured(_at(scores, effort, split))["accuracy"])


def _measured(scores: Sequence[Score]) -> dict[str, Any]:
    points, total = sum(score.points for score in scores), sum(score.total for score in scores)
    return {
        "accuracy": points / total,
        "interval": list(wilson(points, total)),
        "analysis_tokens": sum(score.analysis_tokens for score in scores) / total,
        "count": total,
    }


def as_table(scores: Sequence[Score]) -> str:
    """Markdown: a row a family; at each effort the right answers with their interval, of train and of held templates."""
    efforts = efforts_of(scores)
    heads = [f"{effort}{' held' if split == 'held' else ''}" for effort in efforts for split in SPLITS]
    rows = [f"| family | {' | '.join(heads)} |", "|---|" + "---|" * len(heads)]
    for family in dict.fromkeys(score.family for score in scores):
        rows.append(_row(family, [score for score in scores if score.family == family], efforts))
    rows.append(_row("all", scores, efforts))
    for name, families in (("right calls", CALLS), ("no call where none fits", NO_CALLS)):
        if chosen := [score for score in scores if score.family in families]:
            rows.append(_row(name, chosen, efforts))
    return "\n".join(rows)


def _row(name: str, scores: Sequence[Score], efforts: Sequence[Effort]) -> str:
    cells = [_cell(_measured(_at(scores, effort, split))) for effort in efforts for split in SPLITS]
    return f"| {name} | {' | '.join(cells)} |"


def _cell(measured: Mapping[str, Any]) -> str:
    low, high = (100 * bound for bound in measured["interval"])
    return f"{100 * measured['accuracy']:.0f} % [{low:.0f}, {high:.0f}] ({measured['analysis_tokens']:.0f})"
