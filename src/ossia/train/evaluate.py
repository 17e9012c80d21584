"""How good a small model is: fresh problems by family and effort, and function calls, through the engine.

In: a loaded model and a seed that training does not use. Out: a table of right answers and tokens of thinking.
It does not know how the model was trained. Run: python -m ossia.train.evaluate [MODEL] [--count N] [--seed N]
"""

import argparse
import json
import random
import re
from collections.abc import Sequence
from datetime import date
from typing import NamedTuple

from ossia.chat import Answering, rules_for
from ossia.engine.engine import Engine
from ossia.engine.request import SamplingParams
from ossia.harmony.constrain import Grammars
from ossia.harmony.messages import Developer, Effort, Message, System, ToolNamespace, developer, system, user
from ossia.harmony.parse import parse
from ossia.harmony.render import render
from ossia.loading import Model, load
from ossia.train.calls import CallProblem, call_problem
from ossia.train.dialogues import EFFORTS, prompt_for
from ossia.train.problems import FAMILIES, Problem

TODAY = date(2026, 11, 24)
MOST_TOKENS = 400


class Score(NamedTuple):
    """Right answers out of `total`, and the mean tokens of analysis."""

    family: str
    effort: Effort
    right: int
    total: int
    thinking: float


def evaluate(model: Model, count: int, seed: int, temperature: float) -> list[Score]:
    """`count` problems a family and effort; the same problems at every effort."""
    bench = _Bench(model, temperature, seed)
    scores = []
    for family, (make, _) in FAMILIES.items():
        rng = random.Random(f"evaluation/{seed}/{family}")
        problems = [make(rng) for _ in range(count)]
        for effort in EFFORTS:
            turns = bench.answers([prompt_for(each, effort, TODAY) for each in problems])
            right = sum(_is_right(each, turn) for each, turn in zip(problems, turns, strict=True))
            scores.append(Score(family, effort, right, count, bench.thinking(turns)))
    rng = random.Random(f"evaluation/{seed}/calls")
    calls = [call_problem(rng) for _ in range(count)]
    for effort in EFFORTS:
        turns = bench.answers([_call_prompt(each, effort) for each in calls])
        right = sum(_is_called(each, turn) for each, turn in zip(calls, turns, strict=True))
        scores.append(Score("function calls", effort, right, count, bench.thinking(turns)))
    return scores


class _Bench:
    """A model with its engine, answering many prompts at once under the rules of the format."""

    def __init__(self, model: Model, temperature: float, seed: int) -> None:
        if model.tokenizer is None:
            raise ValueError(f"model {model.name!r} has no tokenizer.json, so it cannot be asked anything")
        self.tokenizer, self._seed, self._temperature = model.tokenizer, seed, temperature
        self._grammars, self._stops = Grammars(model.tokenizer), model.stop_tokens
        self._engine = Engine(model.transformer, step_tokens=2048)

    def answers(self, prompts: Sequence[list[Message]]) -> list[list[Message]]:
        streams = []
        for number, prompt in enumerate(prompts):
            params = SamplingParams(
                temperature=self._temperature, seed=self._seed + number, max_tokens=MOST_TOKENS, stop_tokens=self._stops
            )
            mask = rules_for(self._grammars, prompt, Answering()).start()
            streams.append(self._engine.submit(render(self.tokenizer, prompt, "assistant"), params, mask))
        return [parse(self.tokenizer, [sampled.token for sampled in stream]) for stream in streams]

    def thinking(self, turns: Sequence[list[Message]]) -> float:
        texts = [message.text for turn in turns for message in turn if message.channel == "analysis"]
        return sum(len(self.tokenizer.encode(text)) for text in texts) / len(turns)


def _is_right(problem: Problem, turn: list[Message]) -> bool:
    """The last number of the final answer is the problem's."""
    numbers = re.findall(r"-?\d+", "".join(message.text for message in turn if message.channel == "final"))
    return bool(numbers) and int(numbers[-1]) == problem.answer


def _is_called(problem: CallProblem, turn: list[Message]) -> bool:
    calls = [message for message in turn if message.recipient]
    if len(calls) != 1 or calls[0].recipient != f"functions.{problem.name}":
        return False
    try:
        return json.loads(calls[0].text) == json.loads(problem.arguments)
    except ValueError:
        return False


def _call_prompt(problem: CallProblem, effort: Effort) -> list[Message]:
    tools = (ToolNamespace("functions", None, problem.tools),)
    return [
        system(System(effort=effort, current_date=TODAY.isoformat())),
        developer(Developer(None, tools)),
        user(problem.question),
    ]


def table(scores: Sequence[Score]) -> str:
    """Markdown: a row a family, right answers and mean thinking tokens at each effort."""
    rows = [f"| family | {' | '.join(EFFORTS)} |", "|---|" + "---|" * len(EFFORTS)]
    for family in dict.fromkeys(score.family for score in scores):
        cells = [score for score in scores if score.family == family]
        rows.append(
            f"| {family} | " + " | ".join(f"{100 * s.right / s.total:.0f} % ({s.thinking:.0f})" for s in cells) + " |"
        )
    means = []
    for effort in EFFORTS:
        cells = [score for score in scores if score.effort == effort]
        means.append(f"{100 * sum(s.right for s in cells) / sum(s.total for s in cells):.1f} %")
    return "\n".join([*rows, f"| all | {' | '.join(means)} |"])


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m ossia.train.evaluate", description=__doc__)
    parser.add_argument("model", nargs="?", default="ossia-mini")
    parser.add_argument("--count", type=int, default=100, help="problems a family and effort")
    parser.add_argument("--seed", type=int, default=1000)
    parser.add_argument("--temperature", type=float, default=1.0)
    given = parser.parse_args()
    print(table(evaluate(load(given.model), given.count, given.seed, given.temperature)))


if __name__ == "__main__":
    main()
