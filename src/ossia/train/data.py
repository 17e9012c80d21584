"""Conversations to batches: rendered, masked to what the assistant says last, grouped by length.

In: a tokenizer, a seed and a step. Out: the same `TrainBatch` for the same three, on any machine.
It does not know the network or the optimizer.
"""

import random
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ossia.harmony.messages import Message
from ossia.harmony.render import Rendered, render_training, without_old_analysis
from ossia.kernels import Batch
from ossia.tokenizer import Tokenizer
from ossia.train.dialogues import dialogue


class TrainBatch(NamedTuple):
    """Rows to run, and the token that each sampled row must predict."""

    batch: Batch
    targets_R: NDArray[np.int64]


def render_last_turn(tokenizer: Tokenizer, messages: Sequence[Message]) -> Rendered:
    """As a model meets it: the history without its old thinking, then this turn whole. Only this turn is a target."""
    asked = max(i for i, message in enumerate(messages) if message.role == "user")
    history = without_old_analysis(messages[: asked + 1])
    rendered = render_training(tokenizer, [*history, *messages[asked + 1 :]], drop_analysis=False)
    before = len(render_training(tokenizer, history, drop_analysis=False).tokens)
    return Rendered(rendered.tokens, [False] * before + rendered.sampled[before:])


def batches(tokenizer: Tokenizer, seed: int, round_number: int, tokens: int, count: int) -> list[TrainBatch]:
    """`count` batches of about `tokens` tokens each, every batch of examples of like length, in no order."""
    rng = random.Random(f"{seed}/{round_number}")
    examples: list[Rendered] = []
    total = 0
    while total < tokens * count:
        examples.append(render_last_turn(tokenizer, dialogue(rng)))
        total += len(examples[-1].tokens)
    examples.sort(key=lambda each: len(each.tokens))
    groups: list[list[Rendered]] = [[] for _ in range(count)]
    seen = 0
    for example in examples:
        groups[min(seen // tokens, count - 1)].append(example)
        seen += len(example.tokens)
    rng.shuffle(groups)
    return [_batch(group) for group in groups if group]


def _batch(examples: Sequence[Rendered]) -> TrainBatch:
    tokens = [token for each in examples for token in each.tokens]
    positions = [np.arange(len(each.tokens), dtype=np.int32) for each in examples]
    starts = np.cumsum([0, *(len(each.tokens) for each in examples)]).astype(np.int32)
    said = np.array([flag for each in examples for flag in each.sampled])
    rows = np.flatnonzero(said).astype(np.int32) - 1  # the row before a target predicts it; the first is never one
    no_blocks = np.zeros((len(examples), 0), np.int32)
    batch = Batch(np.array(tokens, np.int32), np.concatenate(positions), starts, no_blocks, no_blocks, rows)
    return TrainBatch(batch, np.array(tokens, np.int64)[rows + 1])
