"""A solver: makes the tested model of each try, with the seeds of its asks.

In: the run's seed, benchmark, sample, repeat, effort. Out: a `TestedModel` whose asks are reproducible.
"""

from dataclasses import dataclass
from hashlib import sha256
from typing import Any, NamedTuple, Protocol

from ossia.evals.core.benchmark import TestedModel, Tries
from ossia.harmony.messages import Effort

SEED_BITS = 31  # what every API takes


class TryKey(NamedTuple):
    """One try: a row of the log."""

    benchmark: str
    sample: str
    repeat: int
    effort: Effort


@dataclass(frozen=True, slots=True)
class SamplingSettings:
    """How the tested model is sampled. max_tokens: of one reply; what does not fit the context is cut."""

    temperature: float = 1.0
    top_p: float = 1.0
    max_tokens: int = 131_072


class Solver(Protocol):
    """Asks one model. Used on one event loop."""

    @property
    def name(self) -> str:
        """The model's name, for the report."""
        ...

    def facts(self) -> dict[str, Any]:
        """What the log says about the model and the way it is asked. Without keys."""
        ...

    def model(self, key: TryKey, seed: int, sampling: SamplingSettings) -> TestedModel:
        """The model of one try. Its asks are numbered, and each has a seed of its own."""
        ...

    async def close(self) -> None: ...


def seed_text(seed: int, key: TryKey) -> str:
    """Equal for equal run seed, benchmark, sample and repeat, at every effort: for permutations and simulators."""
    return f"{seed}/{key.benchmark}/{key.sample}/{key.repeat}"


def tries_of(seed: int, key: TryKey, user_model: TestedModel | None = None) -> Tries:
    return Tries(key.repeat, seed_text(seed, key), user_model)


def ask_seed(seed: int, key: TryKey, step: int) -> int:
    """The sampling seed of one ask."""
    digest = sha256(f"{seed_text(seed, key)}/{key.effort}/{step}".encode()).digest()
    return int.from_bytes(digest[:8], "little") % 2**SEED_BITS
