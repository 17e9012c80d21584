"""The trainer: MXFP4 in the loop, sinks' gradients, resuming to the bit, and a model that comes out as it went in."""

import os
import random
import signal
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from ossia.engine.engine import Engine
from ossia.engine.request import SamplingParams
from ossia.kernels.backends import make_ops
from ossia.kernels.reference import ReferenceOps, sink_attention
from ossia.model.checkpoint import open_checkpoint
from ossia.model.transformer import load_transformer
from ossia.quant import from_bf16, quantize_mxfp4, to_bf16, unpack_mxfp4
from ossia.tokenizer.tokenizer import Tokenizer
from ossia.tokenizer.tokenizer_json import write_tokenizer_json
from ossia.train.data.batches import Batches, TrainBatch, pack
from ossia.train.data.sequences import Conversation, sequences
from ossia.train.data.vocabulary import train_vocabulary
from ossia.train.loop.checkpoint import StateError
from ossia.train.loop.metrics import read_log
from ossia.train.loop.trainer import Trainer
from ossia.train.model.ops import TrainingOps
from ossia.train.model.trainable import TrainableModel
from ossia.train.model.weights.fake_quant import fake_bf16, fake_quantize, mxfp4_values
from ossia.train.objectives.balance import load_balancing_loss, router_metrics
from ossia.train.objectives.supervised import NextTokenObjective
from ossia.train.recipe import CheckpointConfig, OptimizerConfig
from ossia.train.run import export
from tests.support.training import CONFIG, chatter, rounds, settings
from tests.support.vocabularies import small

MUON = OptimizerConfig(kind="muon", lr=3e-3, muon_lr=3e-3)


def trainer(folder: Path, steps: int = 6, save_every: int = 2, **given: object) -> Trainer:
    torch.manual_seed(0)
    network, chosen = TrainableModel.random(CONFIG, 0), settings(steps, **given)
    keep = CheckpointConfig(save_every=save_every, log_every=1)
    return Trainer("sft", network, NextTokenObjective(network, Batches(rounds(chosen)), chosen), folder, keep)


def losses(folder: Path) -> list[float]:
    """To the bit: a log has all digits of a float32."""
    return [row["loss"] for row in read_log(folder / "log.jsonl")]


def batch(count: int = 3) -> TrainBatch:
    return pack([each for i in range(count) for each in sequences(small(), Conversation(chatter(random.Random(i))))])


@hypothesis_settings(max_examples=200, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), power=st.integers(-40, 40))
def test_fake_quantization_is_the_real_one_to_the_bit(seed: int, power: int):
    weight = np.random.default_rng(seed).standard_normal((3, 64)).astype(np.float32) * np.float32(2.0**power)
    weight[0, :8] = [0, -0.0, 7, 5, 2.5, 0.25, 0.75, 3.5]
    real = unpack_mxfp4(quantize_mxfp4(weight))
    assert np.array_equal(mxfp4_values(torch.from_numpy(weight)).numpy(), real)
    assert np.array_equal(fake_bf16(torch.from_numpy(weight)).numpy(), from_bf16(to_bf16(weight)))


@pytest.mark.parametrize("fake", [fake_quantize, fake_bf16])
def test_the_gradient_passes_straight_through(fake):
    weight = torch.randn(2, 32, requires_grad=True)
    (fake(weight) * torch.arange(32.0)).sum().backward()
    assert torch.equal(weight.grad, torch.arange(32.0).expand(2, 32))


@pytest.mark.parametrize("window", [0, 3])
def test_attention_with_sinks_has_the_gradient_of_finite_differences(window: int):
    """In float64, of queries, keys, values and sinks alike."""
    source = torch.Generator().manual_seed(1)

    def drawn(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=source, dtype=torch.float64, requires_grad=True)

    q, k, v, sinks = drawn(2, 5, 4, 6), drawn(2, 5, 2, 6), drawn(2, 5, 2, 6), drawn(4)
    distance = torch.arange(5)[:, None] - torch.arange(5)[None]
    seen = ((distance >= 0) & ((distance < window) if window else True)).expand(2, -1, -1)
    assert torch.autograd.gradcheck(lambda *given: sink_attention(*given[:3], seen, given[3]), (q, k, v, sinks))


def test_the_whole_networks_gradient_agrees_with_finite_differences_along_it():
    network = TrainableModel.random(
        replace(CONFIG, experts_per_token=CONFIG.experts), 0
    )  # a choice of experts would make jumps
    given = batch()

    def loss() -> torch.Tensor:
        logits = network.logits(given.batch, ReferenceOps(), "none")
        return torch.nn.functional.cross_entropy(logits.double(), torch.from_numpy(given.targets_R))

    loss().backward()
    for name in ("layers.1.sinks", "layers.0.qkv_weight", "layers.1.up_weight", "layers.0.router_weight", "embedding"):
        value = network.trained()[name]
        assert value.grad is not None
        direction, step = value.grad / value.grad.norm(), min(0.2, 2e-3 / float(value.grad.norm()))
        with torch.no_grad():
            value += step * direction
            up = loss()
            value -= 2 * step * direction
            down = loss()
            value += step * direction
        assert float((up - down) / (2 * step)) == pytest.approx(float(value.grad.norm()), rel=0.05), name


def test_balance_is_one_when_experts_are_used_alike_and_their_number_when_one_is_alone():
    recording = TrainingOps()
    network = TrainableModel.random(CONFIG, 0)
    with torch.no_grad():
        for i in range(CONFIG.layers):
            network.trained()[f"layers.{i}.router_weight"].zero_()
            network.trained()[f"layers.{i}.router_bias"].copy_(torch.tensor([40.0, 20.0, 0.0, 0.0]))
        network.logits(batch().batch, recording)
        alone = router_metrics(recording.routings)
        assert alone["router_aux_loss"] == pytest.approx(2.0)  # half the choices go to the sure one of four
        assert (alone["max_expert_load"], alone["unused_experts"]) == (2.0, 4.0)
        assert alone["router_entropy"] < 0.01
        recording.routings.clear()
        TrainableModel.random(CONFIG, 1).logits(batch().batch, recording)
        assert float(load_balancing_loss(recording.routings)) == pytest.approx(1.0, abs=0.3)
        assert router_metrics(recording.routings)["unused_experts"] == 0


@pytest.mark.parametrize("optimizer", [OptimizerConfig(lr=3e-3), MUON], ids=["adamw", "muon"])
def test_training_lowers_the_loss(tmp_path: Path, optimizer: OptimizerConfig):
    trainer(tmp_path, steps=30, save_every=100, optimizer=optimizer).run()
    assert np.mean(losses(tmp_path)[-5:]) < 0.7 * losses(tmp_path)[0]


def test_bfloat16_products_train_alike(tmp_path: Path):
    for precision in ("f32", "bf16"):
        trainer(tmp_path / precision, steps=12, save_every=100, precision=precision).run()
    assert losses(tmp_path / "f32") != losses(tmp_path / "bf16")
    np.testing.assert_allclose(losses(tmp_path / "bf16"), losses(tmp_path / "f32"), rtol=0.03)


def test_accumulated_batches_are_one_large_batch(tmp_path: Path):
    """Every target counts alike, whichever batch it is in; only the experts' balance is each batch's own."""
    one = trainer(tmp_path / "one", steps=2, batch_tokens=3000, bucket_batches=1, router_aux_loss_coef=0.0)
    two = trainer(
        tmp_path / "two", steps=2, batch_tokens=1500, bucket_batches=2, router_aux_loss_coef=0.0, accumulate=2
    )
    one.run()
    two.run()
    np.testing.assert_allclose(losses(tmp_path / "one"), losses(tmp_path / "two"), rtol=1e-5)
    for name, value in one.weights.trained().items():
        if name.endswith("out_weight"):
            torch.testing.assert_close(value, two.weights.trained()[name], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(
    "given", [{}, {"optimizer": MUON}, {"accumulate": 3, "bucket_batches": 4}], ids=["adamw", "muon", "across rounds"]
)
def test_a_broken_off_run_goes_on_to_the_bit(tmp_path: Path, given: dict):
    trainer(tmp_path / "whole", **given).run()
    trainer(tmp_path / "broken", **given).run(until=3)
    trainer(tmp_path / "broken", **given).run(until=4)
    broken = trainer(tmp_path / "broken", **given)
    broken.run()
    assert losses(tmp_path / "whole") == losses(tmp_path / "broken")
    assert len(losses(tmp_path / "whole")) == 6


def test_the_last_two_states_are_kept_and_a_damaged_one_passed_over(tmp_path: Path):
    trainer(tmp_path).run()
    assert [path.name for path in sorted(tmp_path.glob("state*"))] == ["state-00000004.pt", "state-00000006.pt"]
    newest = tmp_path / "state-00000006.pt"
    newest.write_bytes(newest.read_bytes()[:1000])
    assert trainer(tmp_path).step == 4
    (tmp_path / "state-00000004.pt").write_bytes(b"")
    with pytest.raises(StateError, match="no saved state can be read"):
        trainer(tmp_path)


def signalled(patch: pytest.MonkeyPatch, folder: Path, *signals: signal.Signals, pause: float = 0.0) -> Trainer:
    """A run that gets these in its third step, so long apart."""
    run = trainer(folder, steps=1000, save_every=500)
    step = run.objective.step

    def then_signal(number: int, report: bool):
        done = step(number, report)
        for each in signals if number == 2 else ():
            os.kill(os.getpid(), each)
            time.sleep(pause)
        return done

    patch.setattr(run.objective, "step", then_signal)
    return run


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("count", [1, 2])
def test_a_signal_finishes_the_step_saves_and_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals, count: int
):
    """Twice in a moment is once: torchrun passes on a Ctrl-C that its processes have had from the terminal."""
    with pytest.raises(SystemExit) as ended:
        signalled(monkeypatch, tmp_path, *[number] * count).run()
    assert ended.value.code == 128 + number
    assert trainer(tmp_path, steps=1000).step == 3


def test_a_second_ctrl_c_later_on_interrupts_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(KeyboardInterrupt):
        signalled(monkeypatch, tmp_path, signal.SIGINT, signal.SIGINT, pause=1.1).run()
    assert trainer(tmp_path, steps=1000).step == 0


def exported(folder: Path, network: TrainableModel) -> Path:
    write_tokenizer_json(
        folder / "tokenizer.json", train_vocabulary(["the assistant says final words"] * 4, small().size)
    )
    Tokenizer.from_file(folder / "tokenizer.json")
    return export(network, folder / "tokenizer.json", folder / "model")


def test_the_exported_checkpoint_has_the_networks_logits(tmp_path: Path):
    """Trained as it will be stored, a network is its checkpoint: on the reference ops to the bit, on the CPU's to 1e-4."""
    network = TrainableModel.random(CONFIG, 0)
    folder = exported(tmp_path, network)
    given = batch().batch
    with torch.no_grad():
        ours = network.logits(given, ReferenceOps(), "stored").numpy()
        unrounded = network.logits(given, ReferenceOps(), "none").numpy()
    reference = load_transformer(open_checkpoint(folder), make_ops("reference"))
    np.testing.assert_array_equal(reference.ops.host(reference.forward(given)), ours)
    cpu = load_transformer(open_checkpoint(folder), make_ops("cpu", dense="bf16", kv="f32"))
    np.testing.assert_allclose(cpu.ops.host(cpu.forward(given)), ours, rtol=1e-3, atol=1e-4)
    assert np.abs(unrounded - ours).max() > 0.01  # what the rounding alone does


def test_the_engines_log_probabilities_are_the_networks(tmp_path: Path):
    """Of tokens that the engine sampled through its cache, with prompts of several lengths together."""
    network = TrainableModel.random(CONFIG, 0)
    engine = Engine(
        load_transformer(open_checkpoint(exported(tmp_path, network)), make_ops("cpu", dense="bf16", kv="f32"))
    )
    prompts = [small().encode("the" * n) for n in (1, 9, 40)]
    answers = engine.generate(prompts, SamplingParams(seed=1, max_tokens=30))
    for prompt, answer in zip(prompts, answers):
        tokens = [*prompt, *(each.token for each in answer)]
        rows = range(len(prompt) - 1, len(tokens) - 1)
        given = pack([sequence_of(tokens, len(prompt))])
        assert list(given.batch.sampled_R) == list(rows)
        with torch.no_grad():
            logits = network.logits(given.batch, ReferenceOps(), "stored")
        ours = torch.log_softmax(logits, -1).gather(1, torch.from_numpy(given.targets_R)[:, None])[:, 0]
        np.testing.assert_allclose(ours.numpy(), [each.logprob for each in answer], atol=1e-4)


def sequence_of(tokens: list[int], prompt: int):
    from ossia.train.data.sequences import NONE, Sequence

    following = [*tokens[1:], NONE]
    return Sequence(tokens, [NONE] * (prompt - 1) + following[prompt - 1 :])


def test_a_network_taken_from_a_checkpoint_is_it(tmp_path: Path):
    network = TrainableModel.random(CONFIG, 0)
    other = TrainableModel.from_checkpoint(open_checkpoint(exported(tmp_path, network)), CONFIG)
    given = batch().batch
    with torch.no_grad():
        ours, theirs = (each.logits(given, ReferenceOps(), "stored") for each in (network, other))
    assert torch.equal(ours, theirs)
    assert other.config == CONFIG


def test_a_learnt_vocabulary_has_single_digits_all_bytes_and_its_size():
    rng = random.Random(0)
    vocabulary = train_vocabulary(
        [f"the sum of {rng.randint(0, 999)} and {rng.randint(0, 999)} is" for _ in range(200)], 275
    )
    tokenizer = Tokenizer(vocabulary)
    assert tokenizer.size == 275
    assert tokenizer.decode(tokenizer.encode("1234")) == "1234"
    assert len(tokenizer.encode("1234")) == 4
    assert tokenizer.decode(tokenizer.encode("日本 🦊")) == "日本 🦊"
    assert len(tokenizer.encode(" sum")) < 4
