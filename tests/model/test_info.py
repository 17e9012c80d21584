"""Sizes: the published figures exactly, and a tiny model counted tensor by tensor."""

import dataclasses

import pytest
import torch
from transformers import GptOssConfig, GptOssForCausalLM

from ossia.model.config import ModelConfig, alternating
from ossia.model.info import describe, model_size


@pytest.mark.parametrize(
    ("name", "parameters", "active", "checkpoint", "attention", "kv_token"),
    [
        ("gpt-oss-120b", 116_829_156_672, 5_132_849_472, 65_248_815_744, 955_805_184, 36 << 10),
        ("gpt-oss-20b", 20_914_757_184, 3_608_307_264, 13_761_264_768, 637_203_456, 24 << 10),
    ],
)
def test_published_models(name, parameters, active, checkpoint, attention, kv_token):
    size = model_size(ModelConfig.preset(name))
    assert (size.parameters, size.active, size.checkpoint_bytes) == (parameters, active, checkpoint)
    assert {c.name: c.parameters for c in size.components}["attention"] == attention
    assert size.kv_token_bytes == kv_token
    assert size.kv_window_bytes == kv_token * 128


def test_parameters_equal_the_tensors_of_transformers():
    config = ModelConfig(
        layers=3, hidden=64, intermediate=96, heads=6, kv_heads=2, head_dim=16, experts=5, experts_per_token=2,
        vocab=101, window=8, sliding=alternating(3),
    )  # fmt: skip
    with torch.device("meta"):
        model = GptOssForCausalLM(GptOssConfig(**config.to_json(quantized=False)))
    assert model_size(config).parameters == sum(p.numel() for p in model.parameters())


def test_kv_cache_of_a_sequence_grows_only_in_full_layers_past_the_window():
    config = ModelConfig.preset("gpt-oss-20b")
    size = model_size(config)
    assert size.kv_bytes(0, config.window) == 0
    assert size.kv_bytes(100, config.window) == 100 * config.layers * 2048
    assert size.kv_bytes(131_072, config.window) == 131_072 * 12 * 2048 + 128 * 12 * 2048


def test_description_names_every_component():
    text = describe(ModelConfig.preset("gpt-oss-120b"))
    for part in (
        "36:",
        "128 a layer, 4 active",
        "116,829,156,672",
        "5,132,849,472",
        "60.77 GiB",
        "36.00 KiB",
        "4.50 GiB",
    ):
        assert part in text
    for component in model_size(ModelConfig.preset("gpt-oss-120b")).components:
        assert f"{component.name:12}{component.parameters:>18,}" in text
    assert "0 see all" in describe(dataclasses.replace(ModelConfig.preset("gpt-oss-20b"), sliding=(True,) * 24))
