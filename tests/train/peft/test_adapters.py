"""Adapters: what the patterns choose, PEFT's format in and out with PEFT as the oracle."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from ossia.kernels.backends import make_ops
from ossia.model.checkpoint import CheckpointError, open_checkpoint
from ossia.model.transformer import load_transformer
from ossia.train.model.trainable import packed
from ossia.train.model.weights.lora import KINDS, chosen, report
from ossia.train.peft.format import read_adapter, write_adapter
from ossia.train.peft.merge import merge
from ossia.train.recipe import ALL_TARGETS, Lora
from tests.support.checkpoints import SHAPES, TINY, tiny_checkpoint
from tests.train.peft.adapted import as_file, batch, divergence, network


@pytest.mark.parametrize("name", list(SHAPES))
@pytest.mark.parametrize("layout", ["hf", "bf16", "original"])
def test_a_fresh_adapter_changes_nothing_and_the_logits_are_the_references(tmp_path: Path, name: str, layout):
    config = SHAPES[name]
    if layout == "original" and config.rope_factor == 1:
        config = replace(config, rope_factor=2.0, max_context=128)
    if layout == "original" and list(config.sliding) != [i % 2 == 0 for i in range(config.layers)]:
        pytest.skip("the original layout cannot express this shape")
    path = tiny_checkpoint(tmp_path, config, layout)
    made = network(path, Lora(targets=ALL_TARGETS if config.experts > 1 else ALL_TARGETS[:2]))
    given = batch(vocab=config.vocab)
    plain = load_transformer(open_checkpoint(path), make_ops("reference")).forward(given.batch)
    torch.testing.assert_close(made.logits(given.batch), plain, rtol=1e-4, atol=1e-4)
    losses = torch.nn.functional.cross_entropy(plain, torch.from_numpy(given.targets_R), reduction="none")
    torch.testing.assert_close(made(given), losses, rtol=1e-4, atol=1e-4)


def test_only_the_adapters_are_trained_and_all_of_them(tmp_path: Path):
    made = network(tiny_checkpoint(tmp_path), Lora(rank=3), stirred=0.1)
    made(batch()).sum().backward()
    trained = made.trained()
    assert len(trained) == 2 * len(KINDS) * TINY.layers
    assert {id(p) for p in made.parameters() if p.requires_grad} == {id(p) for p in trained.values()}
    for name, value in trained.items():
        assert value.grad is not None, name
        assert value.grad.abs().max() > 0, name
    assert all(p.grad is None for p in made.parameters() if not p.requires_grad)


def test_activation_checkpointing_changes_no_gradient(tmp_path: Path):
    path = tiny_checkpoint(tmp_path)
    grads = []
    for recompute in (True, False):
        made = network(path, Lora(rank=2), stirred=0.05)
        made.recompute = recompute
        made(batch()).mean().backward()
        grads.append([value.grad for value in made.trained().values()])
    for one, other in zip(*grads):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    ("patterns", "count"),
    [
        (("q_proj",), 4),
        (("self_attn.*",), 16),
        (("mlp.experts.*", "router"), 12),
        (("layers.[02].mlp.experts.down_proj",), 2),
        (("model.layers.3.self_attn.o_proj",), 1),
        (("*",), 28),
    ],
)
def test_patterns_choose_weights_by_name(patterns: tuple[str, ...], count: int):
    assert len(chosen(TINY, Lora(targets=patterns))) == count


@pytest.mark.parametrize("pattern", ["q_project", "layers.4.*", "experts", "mlp.experts.0.up_proj", "lm_head", ""])
def test_a_pattern_that_matches_nothing_is_refused(pattern: str):
    with pytest.raises(ValueError, match=r"matches no weight of this model: it has self_attn\.q_proj"):
        chosen(TINY, Lora(targets=("q_proj", pattern)))


@pytest.mark.parametrize("bad", [{"rank": 0}, {"alpha": 0.0}, {"dropout": 1.0}, {"targets": ()}])
def test_settings_that_cannot_be_are_refused(bad):
    with pytest.raises(ValueError, match="LoRA"):
        Lora(**bad)


def test_the_report_counts_what_is_trained(tmp_path: Path):
    lora = Lora(rank=3, targets=("q_proj", "experts.*"))
    made = network(tiny_checkpoint(tmp_path), lora)
    total = sum(value.numel() for value in made.trained().values())
    said = report(made.targets, lora, TINY)
    assert f"{total:,} trained parameters" in said
    assert "mlp.router                not trained" in said


def peft_model(path: Path):
    """transformers' model of a bf16 checkpoint, in float32."""
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("peft")
    return transformers.AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32, attn_implementation="eager")


def peft_logits(model, tokens: list[int]) -> torch.Tensor:
    with torch.no_grad():
        return model(torch.tensor([tokens])).logits[0]


CHOICES = {
    "everything": ALL_TARGETS,
    "attention": ("self_attn.*",),
    "router and one of the experts' weights": ("router", "down_proj"),
    "the other of the experts' weights": ("gate_up_proj",),
    "some layers": ("layers.[13].self_attn.q_proj", "layers.2.mlp.experts.*", "layers.0.mlp.experts.down_proj"),
}


@pytest.mark.parametrize("targets", CHOICES.values(), ids=CHOICES.keys())
def test_peft_loads_our_adapter_and_has_our_logits(tmp_path: Path, targets: tuple[str, ...]):
    model = peft_model(tiny_checkpoint(tmp_path / "model", layout="bf16"))
    import peft

    made = network(tmp_path / "model", Lora(rank=3, alpha=5.0, targets=targets), stirred=0.2)
    tokens = np.random.default_rng(1).integers(0, TINY.vocab, 30).tolist()
    ours = made.logits(packed([tokens], [[True] * 30]).batch)
    base = peft_logits(model, tokens)[:-1]
    write_adapter(tmp_path / "adapter", TINY, made.lora, made.targets, as_file(made).matrices, "base")
    theirs = peft_logits(peft.PeftModel.from_pretrained(model, str(tmp_path / "adapter")), tokens)[:-1]
    assert (ours - base).abs().max() > 0.05
    torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3)


def test_the_gradients_are_pefts(tmp_path: Path):
    """Through transformers' own network with dense experts and PEFT's own adapters."""
    model = peft_model(tiny_checkpoint(tmp_path / "model", layout="bf16"))
    import peft
    from safetensors.numpy import load_file

    tiny_checkpoint(tmp_path / "packed")
    made = network(tmp_path / "packed", Lora(rank=3, alpha=5.0), stirred=0.1)
    tokens = np.random.default_rng(1).integers(0, TINY.vocab, 30).tolist()
    made(packed([tokens], [[True] * 30])).mean().backward()
    write_adapter(tmp_path / "adapter", TINY, made.lora, made.targets, as_file(made).matrices)
    adapted = peft.PeftModel.from_pretrained(model, str(tmp_path / "adapter"), is_trainable=True)
    ids = torch.tensor([tokens])
    adapted(ids, labels=ids).loss.backward()
    ours = {name: value.grad.numpy() for name, value in made.trained().items() if value.grad is not None}
    write_adapter(tmp_path / "gradients", TINY, made.lora, made.targets, ours)
    stored = load_file(tmp_path / "gradients" / "adapter_model.safetensors")
    theirs = {name.replace(".default", ""): p.grad for name, p in adapted.named_parameters() if p.requires_grad}
    assert stored.keys() == theirs.keys()
    for name, value in stored.items():
        scale = theirs[name].abs().max()
        torch.testing.assert_close(torch.from_numpy(value), theirs[name], rtol=1e-3, atol=1e-3 * float(scale))


def peft_adapter(model, tmp_path: Path, **how):
    """A trained adapter as PEFT has it, and as PEFT writes it."""
    import peft

    config = peft.LoraConfig(r=4, lora_alpha=6, target_modules=["q_proj", "o_proj"], task_type="CAUSAL_LM", **how)
    torch.manual_seed(5)  # PEFT draws the A matrices; a router's near tie must not decide the test
    adapted = peft.get_peft_model(model, config)
    adapted.save_pretrained(str(tmp_path / "initial"))
    trained = "lora_A" if how.get("init_lora_weights") == "mica" else "lora_B"  # MiCA freezes B
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for name, value in adapted.named_parameters():
            if trained in name:
                value.add_(torch.randn(value.shape, generator=generator) * 0.05)
    adapted.save_pretrained(str(tmp_path / "adapter"))
    return adapted


def merged_divergence(tmp_path: Path, adapted, adapter: Path) -> float:
    """Of the merged model's logits from PEFT's; those of the base are far from them."""
    checkpoint = open_checkpoint(tmp_path / "model")
    merge(checkpoint, read_adapter(adapter, TINY), tmp_path / "merged", "bf16")
    tokens = np.random.default_rng(1).integers(0, TINY.vocab, 30).tolist()
    given, theirs = packed([tokens], [[True] * 30]).batch, peft_logits(adapted, tokens)[:-1]
    assert divergence(load_transformer(checkpoint, make_ops("reference")).forward(given), theirs) > 0.003
    return divergence(
        load_transformer(open_checkpoint(tmp_path / "merged"), make_ops("reference")).forward(given), theirs
    )


EXPERT_PATTERNS = {
    "target_parameters": ["mlp.router.weight", "mlp.experts.gate_up_proj", "mlp.experts.down_proj"],
    "rank_pattern": {"experts.gate_up_proj": 2, "mlp.router.weight": 7},
    "alpha_pattern": {"experts.down_proj": 9, r"layers\.[12]\.mlp\.router\.weight": 3},
}
PATTERNS = [
    {"rank_pattern": {"q_proj": 2}},
    {"rank_pattern": {"q_proj": 9, r"layers\.0\.self_attn\.o_proj": 1}, "alpha_pattern": {"o_proj": 16}},
    {"rank_pattern": {"q": 9, "self_attn.q_proj": 2, "proj": 5}},  # a name counts whole, from a dot on
    {"rank_pattern": {r".*\.1\..*_proj": 6}, "alpha_pattern": {r".*\.2\..*": 1.5}, "use_rslora": True},
    EXPERT_PATTERNS,
    {**EXPERT_PATTERNS, "use_rslora": True},
]


@pytest.mark.parametrize("how", PATTERNS)
def test_M1_ranks_and_alphas_by_pattern_merge_to_pefts_logits(tmp_path: Path, how):
    adapted = peft_adapter(peft_model(tiny_checkpoint(tmp_path / "model", layout="bf16")), tmp_path, **how)
    assert merged_divergence(tmp_path, adapted, tmp_path / "adapter") <= 0.001
    ranks = {
        matrix.shape[-2]
        for name, matrix in read_adapter(tmp_path / "adapter", TINY).matrices.items()
        if name.endswith(".a")
    }
    assert len(ranks) == 1  # training goes on from such an adapter, too


def test_M1_an_adapter_that_eva_initialised_merges_to_pefts_logits(tmp_path: Path):
    """EVA shares the ranks out by the data that it sees: such an adapter has a rank for every weight."""
    import peft

    model = peft_model(tiny_checkpoint(tmp_path / "model", layout="bf16"))
    how = peft.LoraConfig(
        r=4, lora_alpha=6, target_modules=["q_proj", "o_proj"], task_type="CAUSAL_LM", init_lora_weights="eva",
        eva_config=peft.EvaConfig(rho=2.0),
    )  # fmt: skip
    adapted = peft.get_peft_model(model, how, low_cpu_mem_usage=True)
    generator = torch.Generator().manual_seed(7)
    texts = [torch.randint(0, TINY.vocab, (2, 24), generator=generator) for _ in range(8)]
    data = [{"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids} for ids in texts]
    peft.initialize_lora_eva_weights(adapted, data, show_progress_bar=False)
    with torch.no_grad():
        for name, value in adapted.named_parameters():
            if "lora_B" in name:
                value.add_(torch.randn(value.shape, generator=generator) * 0.3)
    adapted.save_pretrained(str(tmp_path / "adapter"))
    assert json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())["rank_pattern"]
    assert merged_divergence(tmp_path, adapted, tmp_path / "adapter") <= 0.001


@pytest.mark.parametrize("how", [{}, {"init_lora_weights": False}, {"init_lora_weights": "gaussian"}, {"init_lora_weights": "orthogonal"},
                                 {"init_lora_weights": "mica"}, {"use_rslora": True}, {"layers_to_transform": [1, 2]}, {"exclude_modules": ["o_proj"]}])  # fmt: skip
def test_M1_every_kind_that_is_accepted_merges_to_pefts_logits(tmp_path: Path, how):
    adapted = peft_adapter(peft_model(tiny_checkpoint(tmp_path / "model", layout="bf16")), tmp_path, **how)
    assert merged_divergence(tmp_path, adapted, tmp_path / "adapter") <= 0.001


@pytest.mark.parametrize("init", ["pissa", "pissa_niter_4", "olora"])
def test_M1_an_adapter_that_changed_the_base_is_refused_and_merges_once_converted(tmp_path: Path, init: str):
    adapted = peft_adapter(
        peft_model(tiny_checkpoint(tmp_path / "model", layout="bf16")), tmp_path, init_lora_weights=init
    )
    with pytest.raises(
        CheckpointError, match=f"init_lora_weights is '{init}', which changes the base weights: convert the adapter"
    ):
        read_adapter(tmp_path / "adapter", TINY)
    adapted.save_pretrained(
        str(tmp_path / "converted"), path_initial_model_for_weight_conversion=str(tmp_path / "initial")
    )
    assert merged_divergence(tmp_path, adapted, tmp_path / "converted") <= 0.001


@pytest.mark.parametrize("init", ["corda", "lora_ga"])
def test_M1_a_converted_adapter_may_name_what_it_was_initialised_with(tmp_path: Path, init: str):
    """PEFT's conversion sets init_lora_weights to true, doubles the ranks, and leaves the other keys as they are."""
    made = network(tiny_checkpoint(tmp_path / "model"), Lora(rank=4, targets=("q_proj", "o_proj")), stirred=0.1)
    write_adapter(tmp_path / "adapter", TINY, made.lora, made.targets, as_file(made).matrices)
    path = tmp_path / "adapter" / "adapter_config.json"
    more = {f"{init}_config": {"cache_file": "x"}, "rank_pattern": {"q_proj": 4}, "alpha_pattern": {"q_proj": 8.0}}
    path.write_text(json.dumps(json.loads(path.read_text()) | {"init_lora_weights": True, **more}))
    read = read_adapter(tmp_path / "adapter", TINY)
    assert read.lora.rank == 4
    q = next(name for name in read.matrices if name.endswith("q_proj.b"))
    assert np.allclose(read.matrices[q], as_file(made).matrices[q] * (8.0 / made.lora.alpha))


@pytest.mark.parametrize("init", ["corda", "lora_ga", "loftq", "PiSSA", "something_new", 3])
def test_M1_initialisations_that_change_the_base_or_are_not_known_are_refused(tmp_path: Path, init):
    made = network(tiny_checkpoint(tmp_path / "model"), Lora(rank=3))
    write_adapter(tmp_path / "adapter", TINY, made.lora, made.targets, as_file(made).matrices)
    path = tmp_path / "adapter" / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"init_lora_weights": init}))
    with pytest.raises(CheckpointError, match=f"init_lora_weights is {init!r}, which .*merge the adapter with PEFT"):
        read_adapter(tmp_path / "adapter", TINY)


@pytest.mark.parametrize("rslora", [False, True])
def test_an_adapter_that_peft_wrote_is_read(tmp_path: Path, rslora: bool):
    model = peft_model(tiny_checkpoint(tmp_path / "model", layout="bf16"))
    import peft

    config = peft.LoraConfig(
        r=4, lora_alpha=6, target_modules=["q_proj", "o_proj"], use_rslora=rslora, task_type="CAUSAL_LM",
        target_parameters=["mlp.router.weight", "mlp.experts.gate_up_proj", "mlp.experts.down_proj"],
    )  # fmt: skip
    adapted = peft.get_peft_model(model, config)
    with torch.no_grad():
        for name, value in adapted.named_parameters():
            if "lora_B" in name:
                value.normal_(std=0.2)
    adapted.save_pretrained(str(tmp_path / "adapter"))
    read = read_adapter(tmp_path / "adapter", TINY)
    assert {name.rpartition(".")[0] for name in read.matrices} == set(read.lora.targets)
    assert len(read.lora.targets) == 5 * TINY.layers
    made = network(tmp_path / "model", read.lora)
    with torch.no_grad():
        for name, value in made.trained().items():
            value.copy_(torch.from_numpy(read.matrices[name]))
    tokens = np.random.default_rng(1).integers(0, TINY.vocab, 30).tolist()
    ours = made.logits(packed([tokens], [[True] * 30]).batch)
    torch.testing.assert_close(ours, peft_logits(adapted, tokens)[:-1], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("targets", CHOICES.values(), ids=CHOICES.keys())
def test_an_adapter_comes_back_to_the_bit(tmp_path: Path, targets: tuple[str, ...]):
    made = network(tiny_checkpoint(tmp_path / "model"), Lora(rank=3, alpha=5.0, targets=targets), stirred=0.2)
    for _ in range(2):  # a second time over the first
        write_adapter(tmp_path / "adapter", TINY, made.lora, made.targets, as_file(made).matrices)
    back = read_adapter(tmp_path / "adapter", TINY)
    assert (back.lora.rank, back.lora.alpha) == (3, 5.0)
    assert back.lora.targets == tuple(target.name for target in made.targets)
    assert back.matrices.keys() == made.trained().keys()
    for name, value in made.trained().items():
        assert np.array_equal(back.matrices[name], value.detach().numpy()), name
    assert {path.name for path in (tmp_path / "adapter").iterdir()} == {
        "adapter_config.json",
        "adapter_model.safetensors",
    }


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"peft_type": "IA3"}, "peft_type is 'IA3'"),
        ({"use_dora": True}, "use_dora is 'True', which Ossia cannot apply: merge the adapter with PEFT"),
        ({"rank_pattern": {"q_proj": 2}}, "has shape"),
        ({"rank_pattern": {"q_proj": 0}}, "rank_pattern is .* want numbers above 0"),
        ({"rank_pattern": {"(": 2}}, "rank_pattern has '\\(', which is no regular expression"),
        ({"alpha_pattern": [2]}, "alpha_pattern is .* want numbers above 0"),
        ({"alpha_pattern": {"q_proj": "x"}}, "alpha_pattern is .* want numbers above 0"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"bias": "lora_only"}, "bias is 'lora_only'"),
        ({"lora_bias": True}, "lora_bias"),
        ({"layer_replication": [[0, 2], [1, 4]]}, "layer_replication"),
        ({"fan_in_fan_out": True}, "fan_in_fan_out"),
        ({"trainable_token_indices": [5]}, "trainable_token_indices"),
        ({"use_qalora": True}, "use_qalora"),
        ({"alora_invocation_tokens": [1, 2]}, "alora_invocation_tokens"),
        ({"arrow_config": {"top_k": 3}}, "arrow_config"),
        ({"monteclora_config": {"n": 1}}, "monteclora_config"),
        ({"kasa_config": {"beta": 1}}, "kasa_config"),
        ({"use_bdlora": {"x": 1}}, "use_bdlora"),
        ({"velora_config": {"x": 1}}, "velora_config"),
        ({"a_key_of_a_later_version": 0.5}, "a_key_of_a_later_version is '0.5'"),
        ({"r": 5}, "has shape"),
        ({"r": "3"}, "must be numbers"),
    ],
)
def test_an_adapter_that_cannot_be_applied_is_refused(tmp_path: Path, change, said: str):
    made = network(tiny_checkpoint(tmp_path / "model"), Lora(rank=3))
    write_adapter(tmp_path / "adapter", TINY, made.lora, made.targets, as_file(made).matrices)
    path = tmp_path / "adapter" / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(CheckpointError, match=said):
        read_adapter(tmp_path / "adapter", TINY)


def test_an_adapter_of_another_model_is_refused(tmp_path: Path):
    made = network(tiny_checkpoint(tmp_path / "model"), Lora(rank=3))
    write_adapter(tmp_path / "adapter", TINY, made.lora, made.targets, as_file(made).matrices)
    with pytest.raises(CheckpointError, match="matches no weight of this model"):
        read_adapter(tmp_path / "adapter", replace(TINY, layers=3, sliding=TINY.sliding[:3]))
    with pytest.raises(CheckpointError, match="has shape"):
        read_adapter(tmp_path / "adapter", replace(TINY, hidden=96))
