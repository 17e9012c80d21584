"""Many conversations answered together by one engine: for evals and for RL, which want numbers and not a stream.

In: prompts, each with how to answer it. Out: the events of each exchange, tools run between.
It does not know tasks, grades or tables.
"""

from collections.abc import Iterator, Sequence
from typing import Any

from ossia.chat import Answering, Calling, Event, NextToken, Sampling, Steps, advance, exchange
from ossia.engine.engine import Engine
from ossia.engine.request import Sampled
from ossia.harmony.constrain import Grammars
from ossia.harmony.messages import Message


def play(engine: Engine, grammars: Grammars, cases: Sequence[tuple[Sequence[Message], Answering]]) -> list[list[Event]]:
    """The events of each exchange, up to its `Done`. All samplings that can go on do so in the same steps.

    Raises ContextError for a prompt that does not fit, or that has grown past the context by its tools' answers.
    """
    players = [_Player(engine, exchange(grammars, messages, how, engine.context)) for messages, how in cases]
    going = players
    while going:
        going = [player for player in going if player.go_on()]
    return [player.events for player in players]


class _Player:
    """One exchange under way."""

    def __init__(self, engine: Engine, steps: Steps) -> None:
        self._engine, self._steps = engine, steps
        self._reply: Any = None
        self._tokens: Iterator[Sampled] = iter(())
        self.events: list[Event] = []

    def go_on(self) -> bool:
        """Read the sampling under way to its end, and submit the next; False when there is none."""
        while (step := advance(self._steps, self._reply)) is not None:
            self._reply = None
            match step:
                case Sampling(prompt, params, mask):
                    self._reply = self._engine.submit(prompt, params, mask)
                    self._tokens = iter(self._reply)
                    return True
                case NextToken():
                    self._reply = next(self._tokens, None)
                case Calling(called, text):
                    self._reply = called.call(text)
                case _:
                    self.events.append(step)
        return False
