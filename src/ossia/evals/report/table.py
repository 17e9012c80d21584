"""A table like the model card's, from a folder of results.

In: results, and the published values of each benchmark. Out: Markdown: a row a benchmark, measured and published columns.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from ossia.evals.core.benchmark import PublishedScore
from ossia.task import EFFORTS

PUBLISHED = ("gpt-oss-120b", "gpt-oss-20b", "o3-mini", "o4-mini", "o3")


def card_table(results: Sequence[Mapping[str, Any]], published: Mapping[str, Sequence[PublishedScore]]) -> str:
    """Measured scores with the interval over questions, and the published values by model and effort.

    published: by benchmark.
    """
    columns = [(model, effort) for model in dict.fromkeys(str(each["model"]) for each in results) for effort in EFFORTS]
    names = list(dict.fromkeys(str(each["benchmark"]) for each in results))
    heads = [f"{model} {effort}" for model, effort in columns]
    heads += [f"published {model}" for model in PUBLISHED]
    lines = [f"| benchmark | {' | '.join(heads)} |", "|---|" + "---|" * len(heads)]
    for name in names:
        cells = [_measured(results, name, model, effort) for model, effort in columns]
        cells += [_published(published.get(name, ()), model) for model in PUBLISHED]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _measured(results: Sequence[Mapping[str, Any]], name: str, model: str, effort: str) -> str:
    found = [each["efforts"].get(effort) for each in results if (each["benchmark"], each["model"]) == (name, model)]
    scores = [each for each in found if each and "score" in each]
    if not scores:
        return "–"
    low, high = scores[-1]["questions_as_sample"]
    return f"{scores[-1]['score']:.1f} [{low:.1f}, {high:.1f}]"


def _published(values: Sequence[PublishedScore], model: str) -> str:
    """The values of one model: at low, medium and high effort, or one value."""
    own = [each for each in values if each.model == model]
    by_effort = {each.effort: each.value for each in own}
    if not own:
        return "–"
    if len(own) == 1:
        return f"{own[0].value:g}"
    return " / ".join(f"{by_effort[effort]:g}" if effort in by_effort else "–" for effort in EFFORTS)
