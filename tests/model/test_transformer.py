"""The forward function against an independent oracle: transformers' GptOssForCausalLM on tiny random checkpoints.

Sequences exceed the window and the original context, so that sliding attention, sinks and YaRN all matter.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from transformers import GptOssConfig, GptOssForCausalLM, Mxfp4Config

import ossia
from ossia.kernels.ops import BLOCK, Batch
from ossia.model.checkpoint import open_checkpoint, write_checkpoint


class Shape(NamedTuple):
    """A tiny model, and how many tokens to run through it."""

    config: dict[str, object]
    tokens: int


def shape(tokens: int, initial: int, **changes: object) -> Shape:
    factor = 8.0
    scaling = {
        "rope_type": "yarn",
        "factor": factor,
        "beta_fast": 32.0,
        "beta_slow": 1.0,
        "original_max_position_embeddings": initial,
        "truncate": False,
    }
    config: dict[str, object] = {
        "num_hidden_layers": 3,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 32,
        "num_local_experts": 4,
        "num_experts_per_tok": 2,
        "vocab_size": 128,
        "sliding_window": 128,
        "max_position_embeddings": int(initial * factor),
        "initial_context_length": initial,
        "rope_parameters": {**scaling, "rope_theta": 150000.0},
        "initializer_range": 0.15,
    }
    return Shape({**config, **changes}, tokens)


SHAPES = {
    "past the window": shape(300, 4096),
    "past the original context": shape(300, 64, sliding_window=32),
    "one group, many experts": shape(
        200, 128, num_key_value_heads=1, num_local_experts=16, num_experts_per_tok=4, num_hidden_layers=4
    ),
    "wide heads": shape(150, 32, head_dim=64, num_attention_heads=8, num_key_value_heads=8, sliding_window=16),
    "past 4096, as published": shape(4200, 4096, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1),
}


class Oracle(NamedTuple):
    folder: Path
    tokens: list[int]
    logits_TV: np.ndarray


def randomised(config: GptOssConfig, seed: int) -> GptOssForCausalLM:
    """Random weights in which every part matters: biases, sinks and norms are not left at 0 or 1."""
    torch.manual_seed(seed)
    model = GptOssForCausalLM(config).float().eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(("bias", "sinks")) or "norm" in name:
                parameter.add_(torch.randn_like(parameter) * 0.3)
        for parameter in model.parameters():
            parameter.copy_(parameter.to(torch.bfloat16).float())
    return model


@pytest.fixture(scope="module", params=SHAPES, ids=lambda name: name.replace(" ", "-"))
def oracle(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Oracle:
    wanted = SHAPES[request.param]
    model = randomised(GptOssConfig(**wanted.config, attn_implementation="eager"), seed=len(request.param))
    folder = tmp_path_factory.mktemp("oracle")
    tokens = torch.randint(0, model.config.vocab_size, (1, wanted.tokens))
    with torch.no_grad():
        logits = model(tokens).logits[0].numpy()
    model.to(torch.bfloat16).save_pretrained(folder)
    return Oracle(folder, tokens[0].tolist(), logits)


def relative_error(ours: np.ndarray, truth: np.ndarray) -> float:
    return float(np.abs(ours - truth).max() / np.abs(truth).max())


def log_softmax(logits_TV: np.ndarray) -> np.ndarray:
    shifted = logits_TV.astype(np.float64) - logits_TV.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def mean_kl(truth_TV: np.ndarray, ours_TV: np.ndarray) -> float:
    p, q = log_softmax(truth_TV), log_softmax(ours_TV)
    return float((np.exp(p) * (p - q)).sum(-1).mean())


def same_top(truth_TV: np.ndarray, ours_TV: np.ndarray) -> float:
    return float((truth_TV.argmax(-1) == ours_TV.argmax(-1)).mean())


def test_the_oracle_can_tell_models_apart(oracle: Oracle):
    """Logits spread, and depend on the order of what came before: else the comparisons below would prove little."""
    assert oracle.logits_TV.std() > 0.5
    swapped = oracle.tokens[:]
    swapped[0], swapped[1] = swapped[1], swapped[0]
    assert relative_error(ossia.load(oracle.folder, backend="reference").logits(swapped), oracle.logits_TV) > 1e-2


def test_reference_logits_equal_transformers(oracle: Oracle):
    ours = ossia.load(oracle.folder, backend="reference").logits(oracle.tokens)
    assert relative_error(ours, oracle.logits_TV) < 1e-4


def test_cpu_logits_are_faithful_to_transformers(oracle: Oracle):
    ours = ossia.load(oracle.folder, backend="cpu").logits(oracle.tokens)
    assert mean_kl(oracle.logits_TV, ours) < 1e-3
    assert same_top(oracle.logits_TV, ours) >= 0.99


def test_int8_weights_stay_close_to_transformers(oracle: Oracle):
    """What large models are kept in; on these nets it measures up to 1.0e-2."""
    # for scale: transformers' own bfloat16 arithmetic measures up to 9e-3 against its float32 on the same nets
    ours = ossia.load(oracle.folder, backend="cpu", dense="int8", kv="bf16").logits(oracle.tokens)
    assert mean_kl(oracle.logits_TV, ours) < 2e-2


@pytest.fixture(scope="module")
def quantized(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One random MXFP4 model in the three layouts."""
    from ossia.model.config import ModelConfig
    from ossia.synth import synth

    wanted = SHAPES["past the original context"]
    config = ModelConfig.from_json({"model_type": "gpt_oss", **wanted.config})
    root = tmp_path_factory.mktemp("layouts")
    for layout in ("hf", "bf16", "original"):
        synth(config, root / layout, layout=layout, seed=7)
    return {layout: root / layout for layout in ("hf", "bf16", "original")}


@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_the_three_layouts_give_identical_logits(quantized: dict[str, Path], backend: str):
    tokens = list(range(100)) * 2
    given = [ossia.load(folder, backend=backend).logits(tokens) for folder in quantized.values()]
    assert np.array_equal(given[0], given[1])
    assert np.array_equal(given[0], given[2])


def test_mxfp4_checkpoints_are_faithful_to_transformers(quantized: dict[str, Path]):
    model = GptOssForCausalLM.from_pretrained(
        quantized["hf"],
        quantization_config=Mxfp4Config(dequantize=True),
        attn_implementation="eager",
        dtype=torch.float32,
    )
    tokens = [(7 * i) % 128 for i in range(300)]
    with torch.no_grad():
        truth = model(torch.tensor([tokens])).logits[0].float().numpy()
    assert relative_error(ossia.load(quantized["hf"], backend="reference").logits(tokens), truth) < 1e-4
    ours = ossia.load(quantized["hf"], backend="cpu").logits(tokens)
    assert mean_kl(truth, ours) < 1e-3
    assert same_top(truth, ours) >= 0.99


@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_a_step_at_a_time_equals_all_at_once(oracle: Oracle, backend: str):
    """Prefill, then single tokens through the paged cache, blocks in no order."""
    model = ossia.load(oracle.folder, backend=backend)
    length, prompt = 60, 41
    whole = model.logits(oracle.tokens[:length])
    blocks = -(-length // BLOCK)
    table = np.arange(blocks, dtype=np.int32)[None, ::-1].copy()
    windows = np.roll(table, 1)
    cache = model.transformer.cache(blocks, blocks)
    parts = []
    for first, last in [(0, prompt), *((p, p + 1) for p in range(prompt, length))]:
        positions = np.arange(first, last, dtype=np.int32)
        tokens = np.array(oracle.tokens[first:last], np.int32)
        starts = np.array([0, last - first], np.int32)
        batch = Batch(tokens, positions, starts, table, windows, np.arange(last - first, dtype=np.int32))
        parts.append(np.array(model.transformer.ops.host(model.transformer.forward(batch, cache))))
    np.testing.assert_allclose(np.concatenate(parts), whole, rtol=1e-4, atol=1e-4)


def test_a_checkpoint_written_again_gives_the_same_logits(oracle: Oracle, tmp_path: Path):
    checkpoint = open_checkpoint(oracle.folder)
    tokens = oracle.tokens[:50]
    write_checkpoint(tmp_path / "again", checkpoint.config, checkpoint, "bf16")
    first, again = (ossia.load(folder, backend="cpu").logits(tokens) for folder in (oracle.folder, tmp_path / "again"))
    assert np.array_equal(first, again)
