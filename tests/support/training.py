"""Tiny networks and made-up data for the training tests."""

import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from ossia.harmony.messages import Effort, Message, System, assistant, system, user
from ossia.model.config import ModelConfig, alternating
from ossia.tools.functions import Tool
from ossia.train.data.batches import BatchBuckets
from ossia.train.data.sources import open_stream
from ossia.train.recipe import DataSource, OptimizerConfig, ScheduleConfig, SupervisedConfig
from tests.support.vocabularies import small

CONFIG = ModelConfig(
    layers=2, hidden=32, intermediate=32, heads=2, kv_heads=1, head_dim=16, experts=4, experts_per_token=2, vocab=small().size,
    window=16, sliding=alternating(2), max_context=1024, initial_context=64, rope_factor=8.0,
)  # fmt: skip
CHATTER = DataSource(generator="tests.support.training:chatter")


def torchrun(count: int, recipe: Path, out: Path) -> str:
    """What `ossia train` says on so many processes, started as a user does, each with one thread."""
    with under_torchrun(count, recipe, out) as started:
        said, errors = started.communicate(timeout=200)
    assert started.returncode == 0, errors
    return said


@contextmanager
def under_torchrun(count: int, recipe: Path, out: Path) -> Iterator[subprocess.Popen[str]]:
    """`ossia train` on so many processes, in a group of their own as a terminal would have them; none outlives the block."""
    root = Path(__file__).parents[2]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={count}"]
    paths = {"PYTHONPATH": os.pathsep.join([str(root), str(root / "src")]), "OMP_NUM_THREADS": "1"}
    given = [*launcher, "-m", "ossia", "train", str(recipe), "--out", str(out)]
    pipe = subprocess.PIPE
    with subprocess.Popen(
        given, stdout=pipe, stderr=pipe, text=True, env=os.environ | paths, start_new_session=True
    ) as started:
        try:
            yield started
        finally:
            if started.poll() is None:
                os.killpg(started.pid, signal.SIGKILL)


def chatter(rng: random.Random) -> list[Message]:
    """Two turns about small sums."""
    messages = [system()]
    for _ in range(2):
        a, b = rng.randint(0, 9), rng.randint(0, 9)
        messages += [
            user(f"{a} + {b}?" + " please" * rng.randint(0, 3)),
            assistant(f"{a} and {b}.", "analysis"),
            assistant(str(a + b)),
        ]
    return messages


def prose(rng: random.Random) -> str:
    return "the sum of " + " and ".join(str(rng.randint(0, 9)) for _ in range(9))


def settings(steps: int = 6, **more: object) -> SupervisedConfig:
    given = {
        "data": (CHATTER,),
        "steps": steps,
        "batch_tokens": 1500,
        "bucket_batches": 2,
        "optimizer": OptimizerConfig(lr=3e-3),
        "schedule": ScheduleConfig(warmup_steps=2),
        **more,
    }
    return SupervisedConfig(**given)  # type: ignore[arg-type]


def rounds(given: SupervisedConfig, seed: int = 3) -> BatchBuckets:
    stream = open_stream(
        given.data, small(), seed=seed, max_seq_len=given.max_seq_len, everything=False, skip_bad=False, near=Path()
    )
    return BatchBuckets(stream, seed, given.batch_tokens, given.bucket_batches)


@dataclass(frozen=True)
class Sum:
    """An example: two digits to add."""

    a: int
    b: int
    response_format: None = None

    def prompt(self, effort: Effort) -> list[Message]:
        return [system(System(effort=effort)), user(f"{self.a} + {self.b}?")]

    def conversation(self, effort: Effort) -> list[Message]:
        return [*self.prompt(effort), assistant("Add.", "analysis"), assistant(str(self.a + self.b))]


class Score(NamedTuple):
    score: float


class Letters:
    """A task that a network without any knowledge can get better at: the share of letters in what it says."""

    name, weight = "letters", 1.0

    def examples(self, seed: int | str) -> Iterator[Sum]:
        rng = random.Random(seed)
        while True:
            yield Sum(rng.randint(0, 9), rng.randint(0, 9))

    def grade(self, example: Sum, turn: Sequence[Message]) -> Score:
        text = "".join(message.text for message in turn)
        return Score(sum(each.isascii() and each.isalpha() for each in text) / max(1, len(text)))

    def tools(self, example: Sum) -> tuple[Tool, ...]:
        return ()


LETTERS = Letters()
