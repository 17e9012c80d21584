"""An engine that says what the expert of a task would: what the loop and the grades make of it must be full marks."""

from collections.abc import Iterator, Sequence
from types import SimpleNamespace
from typing import Any

from ossia.engine.request import Sampled, SamplingParams
from ossia.harmony.render import render
from ossia.task import EFFORTS, Example
from tests.vocabularies import small


class Expert:
    """Knows the examples by their prompts. `waiting`: how many samplings were submitted before the first step."""

    context = 4096

    def __init__(self, examples: Sequence[Example]) -> None:
        self._said = {key: tokens for each in examples for key, tokens in turns_of(each)}
        self._begun: list[Spoken] = []
        self.waiting = self.submitted = self._steps = 0

    def submit(self, prompt: Sequence[int], params: SamplingParams, mask: Any) -> "Spoken":
        self.submitted += 1
        self.waiting += not self._steps
        self._begun.append(Spoken(self._said[tuple(prompt)], mask))
        return self._begun[-1]

    def step(self) -> bool:
        """All that has begun is said."""
        begun, self._begun, self._steps = self._begun, [], self._steps + 1
        for spoken in begun:
            spoken.ended = True
        return bool(begun)


class Spoken:
    cached_tokens = written_tokens = 0

    def __init__(self, tokens: Sequence[int], mask: Any) -> None:
        self._tokens, self._mask, self.ended = tokens, mask, False

    def ready(self) -> list[Sampled]:
        tokens, self._tokens = (self._tokens, []) if self.ended else ([], self._tokens)
        for token in tokens:
            self._mask.accept(token)
            assert not self._mask.strayed
        return [
            Sampled(token, -0.1, finish="stop" if number == len(tokens) - 1 else None)
            for number, token in enumerate(tokens)
        ]


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


def model() -> Any:
    config = SimpleNamespace(vocab=small().size, hidden=32)
    stops = frozenset(small().special[name] for name in ("<|return|>", "<|call|>"))
    return SimpleNamespace(name="expert", tokenizer=small(), stop_tokens=stops, config=config, transformer=None)
