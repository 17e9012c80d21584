"""What MXFP4 costs a model that this repository trained: right answers of the same weights with experts in MXFP4 and in bfloat16.

In: the folder of a training run, a stage of it, problems a family, split and effort. Out: both accuracies with 95 % intervals.
Both are asked the same problems with the same seeds, greedily and at temperature 1. The run must have begun from nothing.

    python benchmarks/rounding.py runs/mini --stage sft --count 20
"""

import argparse
import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch

from ossia.evals.mini import Score, cases_of, evaluate
from ossia.evals.stats.intervals import wilson
from ossia.loading import load
from ossia.mini.tasks.catalogue import TASKS
from ossia.model.checkpoint import LayerTensors, write_checkpoint
from ossia.quant import to_bf16
from ossia.train.loop.checkpoint import load_state
from ossia.train.model.state import TrainedState
from ossia.train.model.stored import StoredTensors
from ossia.train.model.trainable import TrainableModel
from ossia.train.recipe import read_recipe
from ossia.train.run import export


class Unrounded(StoredTensors):
    """The experts too in bfloat16."""

    def layer(self, index: int) -> LayerTensors:
        wide: dict[str, Any] = {field: to_bf16(self._host[f"layers.{index}.{field}"]) for field in LayerTensors._fields}
        return LayerTensors(**wide)


def network_of(run: Path, stage: str) -> TrainableModel:
    state = load_state(run / stage, torch.device("cpu"))
    if not state:
        raise SystemExit(f"{run / stage} has no state: give the folder of a run that has been through this stage")
    config = read_recipe(run / "recipe.toml").model
    if config is None:
        raise SystemExit(f"{run}/recipe.toml has no [model]: give a run that began from nothing")
    network = TrainableModel.random(config, 0)
    TrainedState(network).load_state_dict({name.replace("/", "."): value for name, value in state["network"].items()})
    return network


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--stage", default="sft")
    parser.add_argument("--count", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1000)
    given = parser.parse_args()
    network = network_of(given.run, given.stage)
    cases = cases_of(TASKS, ("medium", "high"), given.count, given.seed)
    with tempfile.TemporaryDirectory() as folder:
        rounded = export(network, given.run / "tokenizer.json", Path(folder) / "mxfp4")
        wide = Path(folder) / "bf16"
        write_checkpoint(wide, network.config, Unrounded(network), "bf16")
        for name in ("tokenizer.json", "generation_config.json"):
            shutil.copyfile(rounded / name, wide / name)
        for temperature in (0.0, 1.0):
            for path in (rounded, wide):
                say(f"{path.name}, temperature {temperature:g}", evaluate(load(path), cases, given.seed, temperature))


def say(title: str, scores: list[Score]) -> None:
    points, total = sum(each.points for each in scores), sum(each.total for each in scores)
    low, high = wilson(points, total)
    print(f"{title}: {100 * points / total:.1f} % [{100 * low:.1f}, {100 * high:.1f}] of {total}", flush=True)


if __name__ == "__main__":
    main()
