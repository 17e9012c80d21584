"""Tiny random models for every test: shapes that bite where gpt-oss is peculiar, and their checkpoints."""

from dataclasses import replace
from pathlib import Path

from ossia.model.checkpoint import write_checkpoint
from ossia.model.config import ModelConfig, alternating
from ossia.model.layouts import Layout
from ossia.model.synthetic import RandomTensors

# heads * head_dim differs from hidden, experts and F are no power of two, a window and a first context soon passed
TINY = ModelConfig(
    layers=4,
    hidden=64,
    intermediate=96,
    heads=6,
    kv_heads=2,
    head_dim=16,
    experts=5,
    experts_per_token=2,
    vocab=101,
    window=8,
    sliding=alternating(4),
    max_context=2048,
    initial_context=64,
)
SHAPES = {
    "tiny": TINY,
    # as published but for sizes: window 128, four experts of 32, heads of 64
    "small gpt-oss": replace(
        TINY, layers=2, hidden=128, intermediate=64, heads=8, kv_heads=1, head_dim=64, experts=32, experts_per_token=4,
        vocab=512, window=128, sliding=alternating(2), max_context=131072, initial_context=4096,
    ),
    "one layer, one expert": replace(TINY, layers=1, experts=1, experts_per_token=1, sliding=(False,), vocab=33),
    "no grouping, all sliding, plain rope": replace(
        TINY, layers=3, heads=3, kv_heads=3, head_dim=8, sliding=(True,) * 3, window=1, rope_factor=1.0, max_context=64
    ),
}  # fmt: skip


def tiny_tensors(config: ModelConfig = TINY, seed: int = 0) -> RandomTensors:
    """Random weights in memory: what `write_checkpoint` takes and a `Checkpoint` gives."""
    return RandomTensors(config, seed)


def tiny_checkpoint(folder: Path, config: ModelConfig = TINY, layout: Layout = "hf", seed: int = 0) -> Path:
    """Write a random checkpoint (weights and config.json) and give its folder back."""
    write_checkpoint(folder, config, RandomTensors(config, seed), layout)
    return folder
