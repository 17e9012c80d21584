"""A judge that is a model: each prompt is asked once, and its answer kept as a row.

In: a solver, and the rows of earlier starts. Out: a `Judge` for each effort of the tested model.
"""

import asyncio
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

from ossia.evals.core.benchmark import Ask
from ossia.evals.core.judging import JudgeReply
from ossia.evals.core.run_log import JudgeRow
from ossia.evals.core.solver import SamplingSettings, Solver, TryKey
from ossia.harmony.messages import Effort, JsonObject

Key = tuple[str, int, str, str, int, str]


@dataclass
class JudgeModel:
    """The judge of a run. keep: appends a row to the log."""

    solver: Solver
    seed: int
    effort: Effort = "medium"
    keep: Callable[[JudgeRow], None] = lambda _: None
    known: dict[Key, JudgeReply] = field(default_factory=dict[Key, JudgeReply])
    _asking: dict[Key, "asyncio.Task[JudgeReply]"] = field(default_factory=dict[Key, "asyncio.Task[JudgeReply]"])

    @property
    def name(self) -> str:
        return f"{self.solver.name} ({self.effort})"

    def remember(self, rows: Sequence[JudgeRow]) -> None:
        """Take over the answers of earlier starts. Errors are asked again."""
        self.known |= {row.key: JudgeReply(row.text, row.error) for row in rows if not row.error}

    def prompts_hash(self) -> str:
        """A hash over all prompts that were asked, in any order."""
        return sha256("".join(sorted({key[-1] for key in self.known})).encode()).hexdigest()

    def at(self, effort: str) -> "JudgeOfEffort":
        """The judge of the tested model's answers at this effort."""
        return JudgeOfEffort(self, effort)

    async def ask(self, key: Key, messages: Sequence[JsonObject], max_tokens: int) -> JudgeReply:
        if (known := self.known.get(key)) is not None:
            return known
        if key not in self._asking:
            self._asking[key] = asyncio.create_task(self._ask(key, messages, max_tokens))
        try:
            # one that stops waiting must not stop the others
            return await asyncio.shield(self._asking[key])
        finally:
            self._asking.pop(key, None)

    async def _ask(self, key: Key, messages: Sequence[JsonObject], max_tokens: int) -> JudgeReply:
        sample, repeat, effort, part, attempt, prompt = key
        tried = TryKey("judge", f"{sample}/{effort}/{part}/{attempt}", repeat, self.effort)
        model = self.solver.model(tried, self.seed, SamplingSettings())
        reply = await model(Ask(messages, max_tokens=max_tokens))
        said = JudgeReply(reply.text or "", reply.error)
        self.keep(
            JudgeRow(
                sample=sample, repeat=repeat, effort=effort, part=part, attempt=attempt, prompt=prompt,
                text=said.text, error=said.error,
            )
        )  # fmt: skip
        self.known[key] = said
        return said


@dataclass(frozen=True, slots=True)
class JudgeOfEffort:
    """A `Judge` for the answers at one effort."""

    model: JudgeModel
    effort: str

    @property
    def name(self) -> str:
        return self.model.name

    async def __call__(
        self, key: tuple[str, int, str], messages: Sequence[JsonObject], attempt: int = 0, max_tokens: int = 2048
    ) -> JudgeReply:
        sample, repeat, part = key
        prompt = prompt_hash(messages)
        return await self.model.ask((sample, repeat, self.effort, part, attempt, prompt), messages, max_tokens)


def prompt_hash(messages: Sequence[JsonObject]) -> str:
    plain: Any = list(messages)
    return sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()
