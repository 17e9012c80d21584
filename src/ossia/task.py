"""A task: examples made from a seed, and a grade. Training data, RL rewards and evaluations come from tasks.

In: a seed and a split. Out: prompts with the effort left open, an expert's turn at each effort, and the score of any
turn.
"""

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from types import MappingProxyType
from typing import Any, Literal, NamedTuple, get_args

from ossia.harmony.messages import Developer, Effort, JsonObject, Message, System, assistant
from ossia.tools.functions import Tool

Split = Literal["train", "held"]
SPLITS: tuple[Split, ...] = get_args(Split)
EFFORTS: tuple[Effort, ...] = get_args(Effort)


class Grade(NamedTuple):
    """The score of a turn, from 0 to 1 unless a benchmark says otherwise, and the reason. metrics: further figures."""

    score: float
    reason: str
    metrics: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Example:
    """One problem: the messages up to the model's turn, the expected answer, and an expert's turn.

    - template: the form it was made from. A template, like its words, belongs to one split.
    - messages: begin with a system message without effort, and end with the user's question.
    - thoughts: an expert's analysis at each effort; "" for none.
    - reply: the expert's messages after it, with tool results if it calls tools.
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
        """The schema that the developer message sets for the final answer, if any."""
        contents = [part for message in self.messages for part in message.content]
        forms = [form for part in contents if isinstance(part, Developer) for form in part.response_formats]
        return forms[0].schema if forms else None

    def prompt(self, effort: Effort) -> list[Message]:
        """The messages, with this effort in the system message."""
        opening, *rest = self.messages
        content = tuple(replace(part, effort=effort) if isinstance(part, System) else part for part in opening.content)
        return [replace(opening, content=content), *rest]

    def turn(self, effort: Effort) -> list[Message]:
        """The expert's turn at this effort."""
        thought = self.thoughts[effort]
        return [*([assistant(thought, "analysis")] if thought else []), *self.reply]

    def conversation(self, effort: Effort) -> list[Message]:
        """The prompt and the expert's turn, for training."""
        return [*self.prompt(effort), *self.turn(effort)]


def no_tools(_: Example) -> tuple[Tool, ...]:
    """No tool is run: a call ends the turn."""
    return ()


@dataclass(frozen=True, slots=True)
class Task:
    """A family of problems. `make` draws one; `grade` scores a turn, which is all messages after the prompt.

    tools: the declared tools that are run while the model answers an example. weight: its share of a mix. max_turns:
    completions of one answer in an evaluation, with tool calls between them.
    """

    name: str
    make: Callable[[random.Random, Split], Example]
    grade: Callable[[Example, Sequence[Message]], Grade]
    tools: Callable[[Example], tuple[Tool, ...]] = no_tools
    weight: float = 1.0
    max_turns: int = 4

    def examples(self, seed: int | str, split: Split = "train") -> Iterator[Example]:
        """An endless stream of examples; equal for equal seeds."""
        rng = random.Random(f"{self.name}/{split}/{seed}")
        while True:
            yield self.make(rng, split)


def final_text(turn: Sequence[Message]) -> str | None:
    """The final answer of a turn; None if there is none, as in a cut turn."""
    finals = [message for message in turn if message.role == "assistant" and message.channel == "final"]
    whole = [message for message in finals if not message.flaws]
    return "".join(message.text for message in whole) if whole else None


def calls_of(turn: Sequence[Message]) -> list[Message]:
    """The calls of a turn, in order."""
    return [message for message in turn if message.role == "assistant" and message.recipient]


def named(path: str) -> Any:
    """The object "module:name". Raises ValueError if there is none."""
    module, _, name = path.partition(":")
    try:
        return getattr(import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"{path!r} names nothing: want 'module:function' ({error})") from error


def tasks_of(path: str) -> list[Any]:
    """The tasks in "module:name": one, several, or a function that returns them. Raises ValueError if it holds none."""
    value: Any = named(path)
    if callable(value) and not hasattr(value, "grade"):
        value = value()
    tasks: list[Any] = [value] if hasattr(value, "grade") else list(value) if isinstance(value, Sequence) else []
    if not tasks or not all(hasattr(each, "grade") and hasattr(each, "examples") for each in tasks):
        raise ValueError(f"{path!r} names no tasks: tasks have `examples` and `grade`")
    return tasks


class TrainingText(NamedTuple):
    """Plain text in pieces, each with whether it is trained on. Pieces join where the tokenizer splits words."""

    pieces: Sequence[tuple[str, bool]]

    @property
    def text(self) -> str:
        return "".join(text for text, _ in self.pieces)
