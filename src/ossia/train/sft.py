"""Supervised fine-tuning by a recipe: from nothing to a model that reasons in harmony, in one file.

In: a TOML recipe and a folder. Out: the folder holds the log, the state, and `model/`, a checkpoint that `ossia` loads.
It does not know how problems are made or what the network computes.
"""

import random
import shutil
import tomllib
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

import torch

from ossia.harmony.render import render
from ossia.model.checkpoint import write_checkpoint
from ossia.model.config import ModelConfig, alternating
from ossia.tokenizer import Tokenizer
from ossia.tokenizer_json import Vocabulary, o200k_harmony, write_generation_config, write_tokenizer_json
from ossia.train.data import batches
from ossia.train.dialogues import dialogue
from ossia.train.loop import Cycle, Schedule, Trainer
from ossia.train.network import Network, NetworkTensors
from ossia.train.vocabulary import learn, plain_text

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Data:
    """The seed of all conversations, tokens a step, batches a round (sorted by length together), the vocabulary."""

    seed: int
    step_tokens: int
    round_batches: int = 16
    vocabulary: int = 1024
    vocabulary_texts: int = 20000


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """A TOML file's tables: [model] as ModelConfig's fields, [data], [schedule]."""

    model: ModelConfig
    data: Data
    schedule: Schedule


def read_recipe(path: Path) -> Recipe:
    """Raises ValueError naming the file and any unknown or missing key."""
    try:
        raw = tomllib.loads(path.read_text("utf-8"))
        _refuse_unknown(raw, {"model", "data", "schedule"}, "the recipe")
        data = _made(Data, raw.get("data", {}), "[data]")
        model = {**raw.get("model", {}), "vocab": data.vocabulary}
        model.setdefault("sliding", alternating(int(model.get("layers", 0))))
        schedule = dict(raw.get("schedule", {}))
        if "cycles" in schedule:
            schedule["cycles"] = tuple(_made(Cycle, each, "[schedule] cycles") for each in schedule["cycles"])
        return Recipe(
            model=_made(ModelConfig, model, "[model]"),
            data=data,
            schedule=_made(Schedule, schedule, "[schedule]"),
        )
    except (tomllib.TOMLDecodeError, ValueError) as error:
        raise ValueError(f"{path}: {error}") from error


def _made(kind: type[T], raw: dict[str, Any], where: str) -> T:
    _refuse_unknown(raw, {field.name for field in fields(kind)}, where)  # type: ignore[arg-type]
    try:
        return kind(**raw)
    except TypeError as error:
        raise ValueError(f"{where}: {error}") from error


def _refuse_unknown(raw: dict[str, Any], known: set[str], where: str) -> None:
    if unknown := sorted(raw.keys() - known):
        raise ValueError(f"unknown keys in {where}: {', '.join(unknown)}; known are {', '.join(sorted(known))}")


def run(recipe_path: Path, out: Path) -> Path:
    """Train, or go on training, and write the finished model to out/model. Returns that folder."""
    recipe = read_recipe(recipe_path)
    out.mkdir(parents=True, exist_ok=True)
    tokenizer = _tokenizer(recipe, out)
    torch.manual_seed(recipe.data.seed)
    data = recipe.data
    trainer = Trainer(
        Network(recipe.model, data.seed),
        lambda number: batches(tokenizer, data.seed, number, data.step_tokens, data.round_batches),
        recipe.schedule,
        out,
    )
    trainer.run()
    return export(trainer.network, tokenizer, out)


def export(network: Network, tokenizer: Tokenizer, out: Path) -> Path:
    """Write out/model anew: weights with MXFP4 experts, config, tokenizer, generation settings."""
    folder = out / "model"
    shutil.rmtree(folder, ignore_errors=True)
    write_checkpoint(folder, network.config, NetworkTensors(network), "hf")
    shutil.copyfile(out / "tokenizer.json", folder / "tokenizer.json")
    write_generation_config(folder / "generation_config.json", tokenizer.special)
    return folder


def _tokenizer(recipe: Recipe, out: Path) -> Tokenizer:
    """The run's own vocabulary, learnt once and kept beside the log."""
    path = out / "tokenizer.json"
    if not path.exists():
        write_tokenizer_json(path, _vocabulary(recipe.data))
    return Tokenizer.from_file(path)


def _vocabulary(data: Data) -> Vocabulary:
    rng = random.Random(f"{data.seed}/vocabulary")
    any_tokenizer = Tokenizer(o200k_harmony())
    texts = (
        plain_text(any_tokenizer.decode(render(any_tokenizer, dialogue(rng)))) for _ in range(data.vocabulary_texts)
    )
    return learn(texts, data.vocabulary)
