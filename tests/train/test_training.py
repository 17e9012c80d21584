"""The trainer: masks, MXFP4 in the loop, resuming to the bit, and a model that comes out as it went in."""

import json
import os
import random
import re
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ossia.harmony.messages import assistant, system, tool, user
from ossia.kernels import ops
from ossia.kernels.reference import ReferenceOps
from ossia.model.checkpoint import open_checkpoint
from ossia.model.config import ModelConfig, alternating
from ossia.model.transformer import load_transformer
from ossia.quant import quantize_mxfp4, unpack_mxfp4
from ossia.tokenizer import Tokenizer
from ossia.tokenizer_json import write_tokenizer_json
from ossia.train.data import batches, render_last_turn
from ossia.train.fake_quant import fake_quantize, mxfp4_values
from ossia.train.loop import Cycle, Schedule, Trainer
from ossia.train.network import Network
from ossia.train.sft import export, read_recipe, run
from ossia.train.vocabulary import learn
from tests.vocabularies import small

RECIPE = Path(__file__).parents[2] / "recipes" / "mini.toml"
CONFIG = ModelConfig(
    layers=2, hidden=32, intermediate=32, heads=2, kv_heads=1, head_dim=16, experts=4, experts_per_token=2, vocab=small().size,
    window=16, sliding=alternating(2), max_context=512, initial_context=64, rope_factor=8.0,
)  # fmt: skip


def rounds(number: int):
    return batches(small(), 3, number, tokens=2500, count=2)


def trainer(folder: Path, steps: int = 6, **settings: float) -> Trainer:
    torch.manual_seed(0)
    schedule = Schedule(cycles=(Cycle(steps=steps, rate=3e-3),), warmup=2, log_every=1, save_every=2, **settings)  # type: ignore[arg-type]
    return Trainer(Network(CONFIG, 0), rounds, schedule, folder)


def losses(folder: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (folder / "log.jsonl").read_text().splitlines()]


def test_only_what_the_assistant_says_in_this_turn_is_a_target():
    said = [
        system(), user("1 + 1?"), assistant("old thought", "analysis"), assistant("2"), user("2 + 2?"), assistant("Hm.", "analysis"),
        assistant("{}", "commentary", "functions.f", "json"), tool("functions.f", "4"), assistant("4"),
    ]  # fmt: skip
    rendered = render_last_turn(small(), said)
    target = small().decode([token for token, flag in zip(*rendered, strict=True) if flag])
    assert target == (
        "<|channel|>analysis<|message|>Hm.<|end|>"
        " to=functions.f<|channel|>commentary json<|message|>{}<|call|>"
        "<|channel|>final<|message|>4<|return|>"
    )
    assert "old thought" not in small().decode(rendered.tokens)


def test_batches_are_the_same_for_the_same_seed_and_predict_the_next_token():
    (first, second), again = rounds(0), rounds(0)
    assert np.array_equal(first.batch.tokens_T, again[0].batch.tokens_T)
    assert np.array_equal(first.targets_R, first.batch.tokens_T[first.batch.sampled_R + 1])
    assert not np.array_equal(first.batch.tokens_T, rounds(1)[0].batch.tokens_T)
    longest = [int(np.diff(each.batch.starts_S1).max()) for each in (first, second)]
    shortest = [int(np.diff(each.batch.starts_S1).min()) for each in (first, second)]
    assert max(shortest) >= min(longest)  # sorted by length into batches


@settings(max_examples=200, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), power=st.integers(-40, 40))
def test_fake_quantization_is_the_real_one_to_the_bit(seed: int, power: int):
    weight = np.random.default_rng(seed).standard_normal((3, 64)).astype(np.float32) * np.float32(2.0**power)
    weight[0, :8] = [0, -0.0, 7, 5, 2.5, 0.25, 0.75, 3.5]
    real = unpack_mxfp4(quantize_mxfp4(weight))
    assert np.array_equal(mxfp4_values(torch.from_numpy(weight)).numpy(), real)


def test_the_gradient_passes_straight_through():
    weight = torch.randn(2, 32, requires_grad=True)
    (fake_quantize(weight) * torch.arange(32.0)).sum().backward()
    assert torch.equal(weight.grad, torch.arange(32.0).expand(2, 32))


def test_the_sinks_gradient_agrees_with_finite_differences():
    network = Network(CONFIG, 0)
    batch = rounds(0)[0]
    sinks = network.named()["layers.1.sinks"]

    def loss() -> torch.Tensor:
        logits = network.transformer(ReferenceOps(), quantized=False).forward(batch.batch)
        return torch.nn.functional.cross_entropy(logits.double(), torch.from_numpy(batch.targets_R))

    loss().backward()
    with torch.no_grad():
        step = 0.05
        sinks[0] += step
        up = loss()
        sinks[0] -= 2 * step
        down = loss()
    assert sinks.grad is not None
    assert float((up - down) / (2 * step)) == pytest.approx(float(sinks.grad[0]), rel=0.05, abs=1e-7)


def test_training_lowers_the_loss(tmp_path: Path):
    trainer(tmp_path, steps=40).run()
    assert np.mean(losses(tmp_path)[-5:]) < 0.7 * losses(tmp_path)[0]


def test_each_cycle_falls_from_its_rate_along_a_cosine():
    schedule = Schedule(cycles=(Cycle(steps=100, rate=1.0), Cycle(steps=50, rate=0.5)), warmup=10, final_rate=0.1)
    rates = [schedule.rate_at(step) for step in range(150)]
    assert rates[:10] == pytest.approx([0.1 * (i + 1) for i in range(10)])
    assert (rates[10], rates[100]) == (1.0, 0.5)
    assert rates[99] == pytest.approx(0.1, abs=0.01)
    assert rates[149] == pytest.approx(0.05, abs=0.01)
    assert all(a > b for a, b in pairwise(rates[10:100]))


def test_a_broken_off_run_goes_on_to_the_bit(tmp_path: Path):
    trainer(tmp_path / "whole").run()
    trainer(tmp_path / "broken").run(until=3)
    trainer(tmp_path / "broken").run()
    assert losses(tmp_path / "whole") == losses(tmp_path / "broken")


def test_steps_after_the_last_save_are_done_again_alike(tmp_path: Path):
    """As after a kill: the log is ahead of the state; it is cut back, and the same losses come again."""
    whole = trainer(tmp_path)
    whole.run(until=4)
    before = losses(tmp_path)
    state = (tmp_path / "state.pt").read_bytes()
    whole.run(until=5)
    (tmp_path / "state.pt").write_bytes(state)
    (tmp_path / "state.part").write_bytes(state[:100])  # what a kill in mid-write leaves
    again = trainer(tmp_path)
    assert losses(tmp_path) == before
    again.run()
    assert len(losses(tmp_path)) == 6


def test_sigterm_saves_and_ends(tmp_path: Path):
    import signal

    run_ = trainer(tmp_path, steps=1000)
    step = run_._step

    def then_terminate(given) -> None:
        step(given)
        if run_.step == 3:
            os.kill(os.getpid(), signal.SIGTERM)

    run_._step = then_terminate  # type: ignore[method-assign]
    with pytest.raises(SystemExit):
        run_.run()
    assert trainer(tmp_path, steps=1000).step == 3


def test_the_exported_checkpoint_has_the_networks_logits(tmp_path: Path):
    write_tokenizer_json(tmp_path / "tokenizer.json", learn(["the assistant says final words"] * 4, small().size))
    network = Network(CONFIG, 0)
    for parameter in network.parameters():
        parameter.data = parameter.data.to(torch.bfloat16).float()
    folder = export(network, Tokenizer.from_file(tmp_path / "tokenizer.json"), tmp_path)
    batch = rounds(0)[0].batch
    with torch.no_grad():
        ours = network.transformer(ReferenceOps()).forward(batch).numpy()
    for op_set in (ops("reference"), ops("cpu", dense="bf16", kv="f32")):
        loaded = load_transformer(open_checkpoint(folder), op_set)
        np.testing.assert_allclose(loaded.ops.host(loaded.forward(batch)), ours, rtol=1e-3, atol=1e-4)


def test_a_recipe_trains_from_nothing_to_a_model_that_loads(tmp_path: Path):
    small_run = {
        "layers = 6": "layers = 1",
        "hidden = 192": "hidden = 32",
        "step_tokens = 6000": "step_tokens = 300\nvocabulary_texts = 50",
    }
    text = re.sub(r"cycles = .*", "cycles = [{ steps = 2, rate = 1e-3 }]", RECIPE.read_text("utf-8"))
    for old, new in small_run.items():
        assert old in text
        text = text.replace(old, new)
    (tmp_path / "recipe.toml").write_text(text)
    folder = run(tmp_path / "recipe.toml", tmp_path / "out")
    files = {path.name for path in folder.iterdir()}
    assert files == {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json"}
    assert open_checkpoint(folder).config.layers == 1


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("typo = 1", "unknown keys in \\[schedule\\]: typo"),
        ("[more]", "unknown keys in the recipe: more"),
        ("save_every = 1", "recipe.toml"),
    ],
)
def test_bad_recipes_are_refused_by_name(tmp_path: Path, line: str, said: str):
    (tmp_path / "recipe.toml").write_text(RECIPE.read_text("utf-8") + line + "\n")
    with pytest.raises(ValueError, match=said):
        read_recipe(tmp_path / "recipe.toml")


def test_a_learnt_vocabulary_has_single_digits_all_bytes_and_its_size():
    rng = random.Random(0)
    vocabulary = learn([f"the sum of {rng.randint(0, 999)} and {rng.randint(0, 999)} is" for _ in range(200)], 275)
    tokenizer = Tokenizer(vocabulary)
    assert tokenizer.size == 275
    assert tokenizer.decode(tokenizer.encode("1234")) == "1234"
    assert len(tokenizer.encode("1234")) == 4
    assert tokenizer.decode(tokenizer.encode("日本 🦊")) == "日本 🦊"
    assert len(tokenizer.encode(" sum")) < 4
