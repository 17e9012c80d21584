"""Writes random checkpoints of any gpt-oss shape, complete and loadable, for tests and measurements.

In: a preset's name or a config, a folder, a layout and a seed. Out: the files of a checkpoint.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

from ossia.model.checkpoint import write_checkpoint
from ossia.model.config import ModelConfig, alternating
from ossia.model.layouts import Layout
from ossia.model.synthetic import RandomTensors
from ossia.tokenizer.tokenizer_json import o200k_harmony, write_generation_config, write_tokenizer_json

HARMONY_VOCAB = 201088  # o200k_harmony's ids, padded to a multiple of 128


def synth(
    model: str | ModelConfig, folder: str | Path, layout: Layout = "hf", seed: int = 0, **changes: Any
) -> ModelConfig:
    """Write a random checkpoint of a preset or a config into a folder. `changes` replace fields of the config.

    With the family's vocabulary it includes tokenizer.json and generation_config.json, which fit no other vocabulary.
    If `layers` changes and `sliding` does not, layers alternate as in the family. Memory use is the size of the
    embedding, or of a layer if larger. Returns the config. Raises ValueError for an impossible shape, and
    CheckpointError if the checkpoint cannot be written.
    """
    config = ModelConfig.preset(model) if isinstance(model, str) else model
    if "layers" in changes:
        changes = {"sliding": alternating(changes["layers"])} | changes
    if changes.get("vocab", config.vocab) != config.vocab:
        changes = {"eos_token": None, "pad_token": None} | changes
    config = replace(config, **changes)
    vocabulary = o200k_harmony() if config.vocab == HARMONY_VOCAB else None
    write_checkpoint(folder, config, RandomTensors(config, seed), layout)
    if vocabulary:
        write_tokenizer_json(Path(folder) / "tokenizer.json", vocabulary)
        write_generation_config(Path(folder) / "generation_config.json", vocabulary.special)
    return config
