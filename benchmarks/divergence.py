"""What --dense and --kv cost in accuracy, for weights of several distributions.

In: nothing, or names of weights. Out: a row for each format: mean KL from bfloat16 weights with a float32 cache, the 99th
percentile, and how often the likeliest token stays the same.

    python benchmarks/divergence.py                 # trained, uniform, gaussian and heavy-tailed weights
    python benchmarks/divergence.py trained

"trained" is ossia-mini over conversations of its own tasks, and "answers" the same where the assistant speaks. The others
are of gpt-oss-20b's width with fewer layers, experts and tokens of vocabulary; they differ in the weights outside the
experts: uniform, normal, or Student's t with four degrees of freedom, which has outliers. All have the same variance.
"""

import math
import random
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from ossia.bench.divergence import Divergence, divergences
from ossia.harmony.render import render_training
from ossia.hub import find
from ossia.loading import load
from ossia.mini.tasks.catalogue import TASKS
from ossia.model.checkpoint import open_checkpoint
from ossia.model.config import ModelConfig, alternating
from ossia.model.layouts import LayoutRow, shape
from ossia.model.synthetic import RandomTensors
from ossia.quant import to_bf16

CONVERSATIONS = 4  # of each task
TOKENS = 256
LAYERS, EXPERTS, VOCAB = 4, 8, 16_384
DRAWN: dict[str, Callable[[np.random.Generator, tuple[int, ...]], Any]] = {
    "uniform": lambda rng, dims: rng.uniform(-math.sqrt(3), math.sqrt(3), dims),
    "gaussian": lambda rng, dims: rng.standard_normal(dims),
    "student-t4": lambda rng, dims: rng.standard_t(4, dims) / math.sqrt(2),
}


class Drawn(RandomTensors):
    """Random tensors whose weights outside the experts are of another distribution, with the variance they had."""

    distribution = "uniform"

    def _dense(self, row: LayoutRow, layer: int, place: int) -> Any:
        usual = super()._dense(row, layer, place)
        if not row.field.endswith(("_weight", "embedding", "unembedding")):
            return usual
        dims = shape(self.config, row)
        spread = float(np.std((usual.reshape(-1)[:100_000].astype(np.uint32) << 16).view(np.float32)))
        values = DRAWN[self.distribution](np.random.default_rng([self.seed, layer, place]), tuple(dims))
        return to_bf16((values * spread).astype(np.float32))


def random_model(distribution: str) -> list[Divergence]:
    config = replace(
        ModelConfig.preset("gpt-oss-20b"), layers=LAYERS, sliding=alternating(LAYERS), experts=EXPERTS, vocab=VOCAB,
        eos_token=None, pad_token=None,
    )  # fmt: skip
    kind = type(distribution, (Drawn,), {"distribution": distribution, "__slots__": ()})
    return divergences(kind(config, 0), tokens=TOKENS)


def trained(answers: bool) -> list[Divergence]:
    model = load("ossia-mini")
    assert model.tokenizer is not None
    rng = random.Random(0)
    examples = [task.make(rng, "held") for task in TASKS for _ in range(CONVERSATIONS)]
    rendered = [render_training(model.tokenizer, each.conversation("medium")) for each in examples]
    # the distribution after a token is counted where the assistant says the next
    before_own = [[*each.sampled[1:], False] for each in rendered] if answers else []
    return divergences(open_checkpoint(find("ossia-mini")), [each.tokens for each in rendered], before_own)


def main() -> None:
    print(f"{'weights':<11} {'--dense':<7} {'--kv':<5} {'mean KL':>9} {'p99 KL':>9} {'same top':>9}")
    for name in sys.argv[1:] or ("trained", "answers", *DRAWN):
        for each in random_model(name) if name in DRAWN else trained(name == "answers"):
            print(
                f"{name:<11} {each.dense:<7} {each.kv:<5} {each.mean_kl:>9.5f} {each.p99_kl:>9.4f} {each.top1_agreement:>9.1%}",
                flush=True,
            )


if __name__ == "__main__":
    main()
