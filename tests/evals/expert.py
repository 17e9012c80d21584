"""An engine that says what the expert of a task would: what the loop and the grades make of it must be full marks."""

from collections.abc import Iterator, Sequence
from typing import Any

from ossia.harmony.render import render
from ossia.task import EFFORTS, Example
from tests.support.engine import ScriptedEngine
from tests.support.vocabularies import small


class Expert(ScriptedEngine):
    """Knows the examples by their prompts. waiting: the requests that were submitted before the first step."""

    def __init__(self, examples: Sequence[Example]) -> None:
        super().__init__(context=4096)
        self._known = {key: tokens for each in examples for key, tokens in turns_of(each)}
        self.waiting: int | None = None

    def step(self) -> bool:
        if self.waiting is None:
            self.waiting = self.submitted
        return super().step()

    def next_turn(self, prompt: Sequence[int]) -> list[int]:
        return self._known[tuple(prompt)]

    @property
    def submitted(self) -> int:
        return len(self.prompts)


def turns_of(example: Example) -> Iterator[tuple[tuple[int, ...], list[int]]]:
    """Each prompt of a sampling, and the tokens that the expert says then."""
    special = small().special
    for effort in EFFORTS:
        said = example.prompt(effort)
        mine: list[Any] = []
        for message in [*example.turn(effort), None]:
            if mine and (message is None or message.role == "tool"):
                opening = render(small(), said, "assistant")
                whole = render(small(), [*said, *mine], drop_analysis=False)
                whole[-1] = special["<|call|>" if mine[-1].recipient else "<|return|>"]
                yield tuple(opening), whole[len(opening) :]
                said, mine = [*said, *mine], []
            if message is not None:
                (said if message.role == "tool" else mine).append(message)
