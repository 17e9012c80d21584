"""A judge: a model that grades what a program cannot.

In: a prompt. Out: the judge's text, kept as a row of its own so that a new grade never asks the model under test again.
"""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from ossia.harmony.messages import JsonObject


class JudgeReply(NamedTuple):
    """What a judge wrote. text: "" if it gave no answer; error: why, after the retries."""

    text: str
    error: str = ""


class Judge(Protocol):
    """Asks the judge's model. `name` goes into the report; equal `key` and `messages` are asked once a run.

    key: what is judged, as ("sample id", repeat, part). attempt: another number asks anew, with another seed.
    """

    @property
    def name(self) -> str: ...

    async def __call__(
        self, key: tuple[str, int, str], messages: Sequence[JsonObject], attempt: int = 0, max_tokens: int = 2048
    ) -> JudgeReply: ...
