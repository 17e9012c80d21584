"""Tasks as an eval, ossia-mini's or anybody's: fresh problems by family, split and effort, answered through the engine.

In: a loaded model, a seed, efforts, and how many problems of each. Out: scores, with the tokens of thinking.
It does not know how the model was trained, or how scores are shown.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import islice
from typing import NamedTuple

from ossia.chat import TurnOptions
from ossia.engine.engine import Engine
from ossia.engine.request import SamplingParams
from ossia.harmony.grammar import GrammarCache
from ossia.harmony.messages import Effort
from ossia.loading import Model
from ossia.rollout import Rollout, RolloutRequest, roll_out
from ossia.task import SPLITS, Example, Split, Task

MOST_TOKENS = 500  # of one sampling; an expert's longest has fewer
TOGETHER = 256  # answers under way at once
CACHE_BYTES = 1 << 28


class Score(NamedTuple):
    """The grades of one family at one effort, added up, and the tokens of analysis of all its answers."""

    family: str
    split: Split
    effort: Effort
    points: float
    total: int
    analysis_tokens: int


class EvalCase(NamedTuple):
    """One problem to be answered at one effort."""

    task: Task
    example: Example
    effort: Effort


def cases_of(tasks: Sequence[Task], efforts: Sequence[Effort], count: int, seed: int | str) -> list[EvalCase]:
    """`count` fresh problems of each family and split: the same ones at every effort."""
    return [
        EvalCase(task, example, effort)
        for task in tasks
        for split in SPLITS
        for example in islice(task.examples(f"eval/{seed}", split), count)
        for effort in efforts
    ]


def evaluate(
    model: Model,
    cases: Sequence[EvalCase],
    seed: int,
    temperature: float = 1.0,
    most_tokens: int = MOST_TOKENS,
    say: Callable[[int], None] = lambda _: None,
) -> list[Score]:
    """Answer every case and add up the grades. most_tokens: of one sampling. say: is called with the number of cases done."""
    if model.tokenizer is None:
        raise ValueError(
            f"model {model.name!r} has no tokenizer.json, so it cannot be asked anything: put one beside it"
        )
    grammars = GrammarCache(model.tokenizer, model.config.vocab)
    scores: dict[tuple[str, Split, Effort], Score] = {}
    for start in range(0, len(cases), TOGETHER):
        part = cases[start : start + TOGETHER]
        # an engine of its own: prompts are all different, and what is kept of them would only take memory
        engine = Engine(model.transformer, cache_bytes=_cache_bytes(model), prefix_bytes=0, max_batched_tokens=1024)
        common = SamplingParams(temperature=temperature, max_tokens=most_tokens, stop_tokens=model.stop_tokens)
        params = [replace(common, seed=seed + start + number) for number in range(len(part))]
        asked = [
            RolloutRequest(
                case.example.prompt(case.effort),
                TurnOptions(params=each, tools=case.task.tools(case.example), max_steps=case.task.max_turns),
            )
            for case, each in zip(part, params, strict=True)
        ]
        for case, rollout in zip(part, roll_out(engine, grammars, asked), strict=True):
            _add(scores, case, rollout)
        say(start + len(part))
    return list(scores.values())


def _cache_bytes(model: Model) -> int | None:
    """Enough for many small models' sequences at once; a large model has what its context takes."""
    return CACHE_BYTES if model.config.hidden <= 512 else None


def _add(scores: dict[tuple[str, Split, Effort], Score], case: EvalCase, rollout: Rollout) -> None:
    key = (case.task.name, case.example.split, case.effort)
    old = scores.get(key) or Score(*key, 0.0, 0, 0)
    points = case.task.grade(case.example, rollout.turn).score
    scores[key] = old._replace(
        points=old.points + points,
        total=old.total + 1,
        analysis_tokens=old.analysis_tokens + rollout.usage.reasoning_tokens,
    )
