"""A task: examples made from a seed, and a grade. Training data, RL rewards and evals all come from it.

In: a seed and a split. Out: prompts with the effort left open, what an expert says at each effort, and a score of any turn.
It does not know models, tokens or who asks.
"""

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from typing import Any, Literal, NamedTuple, get_args

from ossia.harmony.messages import Developer, Effort, JsonObject, Message, System, assistant
from ossia.tools.functions import Tool

Split = Literal["train", "held"]
SPLITS: tuple[Split, ...] = get_args(Split)
EFFORTS: tuple[Effort, ...] = get_args(Effort)


class Grade(NamedTuple):
    """How good a turn is, from 0 to 1, and why."""

    score: float
    reason: str


@dataclass(frozen=True, slots=True)
class Example:
    """One problem: what is said up to the model's turn, what its grade compares with, and an expert's turn.

    template: names the form it was made from; a template, like its words, belongs to one split. messages: begin with a
    system message without effort, end with the user's question. thoughts: an expert's thinking at each effort, "" for none.
    reply: what the expert says after it, with the answers of tools where it calls any.
    """

    family: str
    template: str
    split: Split
    messages: tuple[Message, ...]
    answer: Any
    thoughts: Mapping[Effort, str]
    reply: tuple[Message, ...]

    @property
    def question(self) -> str:
        return self.messages[-1].text

    @property
    def response_format(self) -> JsonObject | None:
        """The schema that the developer set for the final answer, if any."""
        contents = [part for message in self.messages for part in message.content]
        forms = [form for part in contents if isinstance(part, Developer) for form in part.response_formats]
        return forms[0].schema if forms else None

    def prompt(self, effort: Effort) -> list[Message]:
        """The messages, with the effort said to the model."""
        opening, *rest = self.messages
        content = tuple(replace(part, effort=effort) if isinstance(part, System) else part for part in opening.content)
        return [replace(opening, content=content), *rest]

    def turn(self, effort: Effort) -> list[Message]:
        """What the expert says."""
        thought = self.thoughts[effort]
        return [*([assistant(thought, "analysis")] if thought else []), *self.reply]

    def conversation(self, effort: Effort) -> list[Message]:
        """The prompt and the expert's turn, for training."""
        return [*self.prompt(effort), *self.turn(effort)]


def no_tools(_: Example) -> tuple[Tool, ...]:
    """Nothing is run: a call ends the turn."""
    return ()


@dataclass(frozen=True, slots=True)
class Task:
    """A family of problems. `make` draws one, `grade` scores a turn: all that was said after the prompt.

    tools: what of the declared tools is run for the model while it answers an example. weight: its share of a mix.
    """

    name: str
    make: Callable[[random.Random, Split], Example]
    grade: Callable[[Example, Sequence[Message]], Grade]
    tools: Callable[[Example], tuple[Tool, ...]] = no_tools
    weight: float = 1.0

    def examples(self, seed: int | str, split: Split = "train") -> Iterator[Example]:
        """Examples without end: the same ones for the same seed."""
        rng = random.Random(f"{self.name}/{split}/{seed}")
        while True:
            yield self.make(rng, split)


def final_text(turn: Sequence[Message]) -> str | None:
    """The final answer of a turn; None where there is none, as in a turn that was cut."""
    finals = [message for message in turn if message.role == "assistant" and message.channel == "final"]
    whole = [message for message in finals if not message.flaws]
    return "".join(message.text for message in whole) if whole else None


def calls_of(turn: Sequence[Message]) -> list[Message]:
    """The calls of a turn, in their order."""
    return [message for message in turn if message.role == "assistant" and message.recipient]


def named(path: str) -> Any:
    """What "module:name" names. ValueError when there is no such thing."""
    module, _, name = path.partition(":")
    try:
        return getattr(import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"{path!r} names nothing: want 'module:function' ({error})") from error


def tasks_of(path: str) -> list[Any]:
    """The tasks that "module:name" names: one, several, or a function that gives them. ValueError where it is none."""
    value: Any = named(path)
    if callable(value) and not hasattr(value, "grade"):
        value = value()
    tasks: list[Any] = [value] if hasattr(value, "grade") else list(value) if isinstance(value, Sequence) else []
    if not tasks or not all(hasattr(each, "grade") and hasattr(each, "examples") for each in tasks):
        raise ValueError(f"{path!r} names no tasks: want what has `examples` and `grade`")
    return tasks


class TrainingText(NamedTuple):
    """Plain text in pieces, each with whether it is to be learnt; pieces meet where the vocabulary parts words."""

    pieces: Sequence[tuple[str, bool]]

    @property
    def text(self) -> str:
        return "".join(text for text, _ in self.pieces)
