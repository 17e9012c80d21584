"""Training speed of a recipe's supervised stage: tokens a second, by optimizer and precision, on this machine.

The variants take turns, round by round, on the same batches, so that what else the machine does falls on all alike.
Run: python benchmarks/train_mini.py [RECIPE] [--rounds N] [--only adamw,muon] [--profile]
"""

import argparse
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import torch

from ossia.train.processes import Processes
from ossia.train.recipe import Recipe, read_recipe
from ossia.train.run import _beginning, _work, keep_memory
from ossia.train.supervised import NextToken

KINDS = {
    "adamw": ("adamw", "f32"),
    "muon": ("muon", "f32"),
    "adamw-bf16": ("adamw", "bf16"),
    "muon-bf16": ("muon", "bf16"),
}


def variant(recipe: Recipe, kind: str, precision: str, out: Path) -> NextToken:
    assert recipe.sft is not None, "a recipe with [sft] is measured"
    optimizer = replace(recipe.sft.optimizer, kind=kind)
    chosen = replace(recipe, sft=replace(recipe.sft, optimizer=optimizer, precision=precision, round_batches=8))
    alone = Processes()
    tokenizer, network = _beginning(chosen, out, alone)
    work = _work("sft", chosen, network, tokenizer, False, Path(), alone)
    assert isinstance(work, NextToken)
    return work


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("recipe", nargs="?", type=Path, default=Path("recipes/mini.toml"))
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--only", default=",".join(KINDS))
    parser.add_argument("--profile", action="store_true", help="print where the first variant's time goes")
    given = parser.parse_args()
    keep_memory()
    recipe = read_recipe(given.recipe)
    chosen = {name: KINDS[name] for name in KINDS if name in given.only.split(",")}
    with tempfile.TemporaryDirectory() as folder:
        works = {name: variant(recipe, *kind, Path(folder)) for name, kind in chosen.items()}
        speeds: dict[str, list[float]] = {name: [] for name in works}
        for number in range(given.rounds + 1):
            for name, work in works.items():
                started = time.perf_counter()
                rows = work.step(number, report=False).rows
                if number:  # the first warms up
                    speeds[name].append(rows / (time.perf_counter() - started))
        print(
            f"{torch.get_num_threads()} threads\n\n| variant | tokens/s, median | quickest | slowest |\n|---|---|---|---|"
        )
        for name, found in speeds.items():
            print(f"| {name} | {statistics.median(found):.0f} | {max(found):.0f} | {min(found):.0f} |")
        if given.profile:
            profile(next(iter(works.values())))


def profile(work: NextToken) -> None:
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as profiled

    with profiled(activities=[ProfilerActivity.CPU]) as found:
        for number in range(3):
            work.step(number, report=False)
    print(found.key_averages().table(sort_by="self_cpu_time_total", row_limit=25, max_name_column_width=50))


if __name__ == "__main__":
    main()
