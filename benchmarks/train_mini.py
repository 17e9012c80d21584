"""Training speed of a recipe's supervised stage: tokens a second, by optimizer and precision, and of transformers' own model.

In: a recipe. Out: a table. The variants take turns, round by round, on the same batches, so that what else the machine does falls
on all alike. transformers' GptOss of the same shape pads sequences to the longest; its weights are never rounded.
Run: python benchmarks/train_mini.py [RECIPE] [--rounds N] [--only adamw,muon] [--profile]
"""

import argparse
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from transformers import GptOssConfig, GptOssForCausalLM

from ossia.train.data.batches import TrainBatch
from ossia.train.loop.distributed import DistributedContext
from ossia.train.loop.trainer import StepResult
from ossia.train.objectives.supervised import NextTokenObjective
from ossia.train.recipe import Recipe, read_recipe
from ossia.train.run import _initial_model, _objective, retain_freed_memory

KINDS = {
    "adamw": ("adamw", "f32"),
    "muon": ("muon", "f32"),
    "adamw-bf16": ("adamw", "bf16"),
    "muon-bf16": ("muon", "bf16"),
    "transformers": ("adamw", "f32"),
    "transformers-bf16": ("adamw", "bf16"),
}


class Transformers:
    """The same step in transformers: the targets' cross-entropy, clipping, AdamW."""

    def __init__(self, same: NextTokenObjective, precision: str) -> None:
        raw = same._model.config.to_json("hf", quantized=False)
        self._same, self._bf16 = same, precision == "bf16"
        self._model = GptOssForCausalLM(GptOssConfig.from_dict(raw))
        self._adam = torch.optim.AdamW(self._model.parameters(), lr=1e-3, fused=True)

    def step(self, number: int, report: bool) -> StepResult:
        batches = [self._same._batches.next() for _ in range(self._same._settings.accumulate)]
        targets = sum(len(each.targets_R) for each in batches)
        for each in batches:
            with torch.autocast("cpu", torch.bfloat16, enabled=self._bf16):
                logits_RV = self._logits(each)
                loss = torch.nn.functional.cross_entropy(
                    logits_RV.float(), torch.from_numpy(each.targets_R), reduction="sum"
                )
            (loss / targets).backward()
        torch.nn.utils.clip_grad_norm_(self._model.parameters(), 1.0)
        self._adam.step()
        self._adam.zero_grad()
        return StepResult(sum(len(each.batch.tokens_T) for each in batches), {})

    def _logits(self, given: TrainBatch) -> torch.Tensor:
        batch = given.batch
        lengths_S = np.diff(batch.starts_S1)
        held_SL = np.arange(lengths_S.max())[None] < lengths_S[:, None]
        tokens_SL = np.zeros(held_SL.shape, np.int64)
        tokens_SL[held_SL] = batch.tokens_T
        out = self._model.model(torch.from_numpy(tokens_SL), attention_mask=torch.from_numpy(held_SL.astype(np.int64)))
        rows_R = torch.from_numpy(np.flatnonzero(held_SL)[batch.sampled_R])
        return self._model.lm_head(out.last_hidden_state.flatten(0, 1)[rows_R])


def variant(recipe: Recipe, kind: str, precision: str, out: Path) -> NextTokenObjective:
    assert recipe.sft is not None, "a recipe with [sft] is measured"
    optimizer = replace(recipe.sft.optimizer, kind=kind)
    chosen = replace(recipe, sft=replace(recipe.sft, optimizer=optimizer, precision=precision, bucket_batches=8))
    alone = DistributedContext()
    tokenizer, network = _initial_model(chosen, out, alone)
    work = _objective("sft", chosen, network, tokenizer, False, Path(), alone)
    assert isinstance(work, NextTokenObjective)
    return work


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("recipe", nargs="?", type=Path, default=Path("recipes/mini.toml"))
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--only", default=",".join(KINDS))
    parser.add_argument("--profile", action="store_true", help="print where the first variant's time goes")
    given = parser.parse_args()
    retain_freed_memory()
    recipe = read_recipe(given.recipe)
    chosen = {name: KINDS[name] for name in KINDS if name in given.only.split(",")}
    with tempfile.TemporaryDirectory() as folder:
        works: dict[str, NextTokenObjective | Transformers] = {}
        for name, kind in chosen.items():
            ours = variant(recipe, *kind, Path(folder))
            works[name] = Transformers(ours, kind[1]) if name.startswith("transformers") else ours
        speeds: dict[str, list[float]] = {name: [] for name in works}
        for number in range(given.rounds + 1):
            for name, work in works.items():
                started = time.perf_counter()
                rows = work.step(number, report=False).tokens
                if number:  # the first warms up
                    speeds[name].append(rows / (time.perf_counter() - started))
        print(
            f"{torch.get_num_threads()} threads\n\n| variant | tokens/s, median | quickest | slowest |\n|---|---|---|---|"
        )
        for name, found in speeds.items():
            print(f"| {name} | {statistics.median(found):.0f} | {max(found):.0f} | {min(found):.0f} |")
        if given.profile:
            profile(next(iter(works.values())))


def profile(work: NextTokenObjective | Transformers) -> None:
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as profiled

    with profiled(activities=[ProfilerActivity.CPU]) as found:
        for number in range(3):
            work.step(number, report=False)
    print(found.key_averages().table(sort_by="self_cpu_time_total", row_limit=25, max_name_column_width=50))


if __name__ == "__main__":
    main()
