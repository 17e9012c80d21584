"""config.json in its forms: what is read, what is written, and what is refused by name."""

import dataclasses
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import GptOssConfig

from ossia.model.config import ModelConfig, alternating

SHIPPED_20B = {  # as published with openai/gpt-oss-20b
    "architectures": ["GptOssForCausalLM"],
    "attention_bias": True,
    "attention_dropout": 0.0,
    "eos_token_id": 200002,
    "experts_per_token": 4,
    "head_dim": 64,
    "hidden_act": "silu",
    "hidden_size": 2880,
    "initial_context_length": 4096,
    "initializer_range": 0.02,
    "intermediate_size": 2880,
    "layer_types": ["sliding_attention", "full_attention"] * 12,
    "max_position_embeddings": 131072,
    "model_type": "gpt_oss",
    "num_attention_heads": 64,
    "num_experts_per_tok": 4,
    "num_hidden_layers": 24,
    "num_key_value_heads": 8,
    "num_local_experts": 32,
    "output_router_logits": False,
    "pad_token_id": 199999,
    "quantization_config": {
        "modules_to_not_convert": [
            "model.layers.*.self_attn",
            "model.layers.*.mlp.router",
            "model.embed_tokens",
            "lm_head",
        ],
        "quant_method": "mxfp4",
    },
    "rms_norm_eps": 1e-05,
    "rope_scaling": {
        "beta_fast": 32.0,
        "beta_slow": 1.0,
        "factor": 32.0,
        "original_max_position_embeddings": 4096,
        "rope_type": "yarn",
        "truncate": False,
    },
    "rope_theta": 150000,
    "router_aux_loss_coef": 0.9,
    "sliding_window": 128,
    "swiglu_limit": 7.0,
    "tie_word_embeddings": False,
    "transformers_version": "4.55.0.dev0",
    "use_cache": True,
    "vocab_size": 201088,
}
ORIGINAL_20B = {  # original/config.json
    "num_hidden_layers": 24,
    "num_experts": 32,
    "experts_per_token": 4,
    "vocab_size": 201088,
    "hidden_size": 2880,
    "intermediate_size": 2880,
    "swiglu_limit": 7.0,
    "head_dim": 64,
    "num_attention_heads": 64,
    "num_key_value_heads": 8,
    "sliding_window": 128,
    "initial_context_length": 4096,
    "rope_theta": 150000,
    "rope_scaling_factor": 32.0,
    "rope_ntk_alpha": 1,
    "rope_ntk_beta": 32,
}


def without(raw, *keys):
    return {key: value for key, value in raw.items() if key not in keys}


def as_transformers_5(raw):
    rope = {**raw["rope_scaling"], "rope_theta": raw["rope_theta"]}
    return without(raw, "rope_scaling", "rope_theta", "initial_context_length") | {"rope_parameters": rope}


@st.composite
def configs(draw):
    layers, kv_heads, experts = (draw(st.integers(1, 5)) for _ in range(3))
    vocab = draw(st.integers(2, 300_000))
    return ModelConfig(
        layers=layers,
        hidden=32 * draw(st.integers(1, 8)),
        intermediate=32 * draw(st.integers(1, 8)),
        heads=kv_heads * draw(st.integers(1, 4)),
        kv_heads=kv_heads,
        head_dim=2 * draw(st.integers(1, 64)),
        experts=experts,
        experts_per_token=draw(st.integers(1, experts)),
        vocab=vocab,
        window=draw(st.integers(1, 4096)),
        sliding=tuple(draw(st.lists(st.booleans(), min_size=layers, max_size=layers))),
        max_context=draw(st.integers(1, 1 << 20)),
        initial_context=draw(st.integers(1, 8192)),
        rope_theta=draw(st.floats(2, 1e7)),
        rope_factor=draw(st.floats(1, 64)),
        rope_beta_slow=draw(st.floats(0.5, 2)),
        swiglu_limit=draw(st.floats(1, 100)),
        norm_eps=draw(st.floats(1e-9, 1e-2)),
        eos_token=draw(st.none() | st.integers(0, vocab - 1)),
        pad_token=draw(st.none() | st.integers(0, vocab - 1)),
    )


def test_the_published_file_is_the_preset():
    config = ModelConfig.from_json(SHIPPED_20B)
    assert config == ModelConfig.preset("gpt-oss-20b")
    assert ModelConfig.from_json(ORIGINAL_20B) == config
    assert without(SHIPPED_20B, "transformers_version") == config.to_json()
    assert config.to_json("original") == ORIGINAL_20B


def test_the_preset_of_the_large_model_differs_in_layers_and_experts_only():
    large = dataclasses.asdict(ModelConfig.preset("gpt-oss-120b"))
    small = dataclasses.asdict(ModelConfig.preset("gpt-oss-20b"))
    assert {k: v for k, v in large.items() if small[k] != v} == {
        "layers": 36,
        "experts": 128,
        "sliding": alternating(36),
    }


def test_windows_and_attention_shapes():
    config = ModelConfig.preset("gpt-oss-20b")
    assert config.windows == (128, 0) * 12
    assert [s.window for s in config.shapes] == [128, 0] * 12
    assert config.shapes[1].rope == config.rope == (150000.0, 32.0, 4096, 32.0, 1.0)


def test_rope_parameters_of_transformers_5_are_read_alike():
    config = ModelConfig.preset("gpt-oss-20b")
    assert ModelConfig.from_json(as_transformers_5(SHIPPED_20B)) == config
    assert ModelConfig.from_json(SHIPPED_20B | {"rope_parameters": SHIPPED_20B["rope_scaling"]}) == config
    saved = json.loads(GptOssConfig(**SHIPPED_20B).to_json_string())
    assert "rope_parameters" in saved
    assert ModelConfig.from_json(saved) == config


def test_plain_rope_is_a_factor_of_one():
    plain = without(SHIPPED_20B, "initial_context_length") | {"rope_scaling": {"rope_type": "default"}}
    assert ModelConfig.from_json(plain).rope == (150000.0, 1.0, 131072, 32.0, 1.0)
    unread = SHIPPED_20B["rope_scaling"] | {"rope_type": "default", "truncate": True}
    assert ModelConfig.from_json(SHIPPED_20B | {"rope_scaling": unread}).rope_factor == 1.0


@given(configs())
def test_every_config_survives_json(config):
    assert ModelConfig.from_json(json.loads(json.dumps(config.to_json()))) == config
    assert ModelConfig.from_json(as_transformers_5(config.to_json(quantized=False))) == config


@given(configs())
def test_the_original_layout_says_all_of_the_computation(config):
    config = dataclasses.replace(
        config,
        sliding=alternating(config.layers),
        max_context=round(config.initial_context * config.rope_factor),
        norm_eps=1e-5,
        router_aux_loss_coef=0.9,
        eos_token=200002 if config.vocab > 200002 else None,
        pad_token=199999 if config.vocab > 200002 else None,
    )
    assert ModelConfig.from_json(json.loads(json.dumps(config.to_json("original")))) == config


def test_the_original_layout_names_what_it_cannot_say():
    config = dataclasses.replace(ModelConfig.preset("gpt-oss-20b"), norm_eps=1e-6, max_context=4096)
    with pytest.raises(ValueError, match="cannot express max_context=4096, norm_eps=1e-06"):
        config.to_json("original")


def test_several_end_tokens_give_the_first():
    assert ModelConfig.from_json(SHIPPED_20B | {"eos_token_id": [200002, 199999]}).eos_token == 200002
    assert ModelConfig.from_json(without(SHIPPED_20B, "eos_token_id")).eos_token is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "llama"}, "model_type is 'llama'"),
        ({"num_mtp_layers": 1}, "unknown key 'num_mtp_layers'"),
        ({"attention_bias": False}, "attention_bias is False; a gpt-oss model has True"),
        ({"hidden_act": "gelu"}, "hidden_act is 'gelu'"),
        ({"tie_word_embeddings": True}, "tie_word_embeddings is True"),
        ({"swiglu_alpha": 1.0}, "swiglu_alpha is 1.0"),
        ({"experts_per_token": 2}, "experts_per_token and num_experts_per_tok differ"),
        ({"quantization_config": {"quant_method": "bitsandbytes"}}, "quant_method is 'bitsandbytes'"),
        ({"quantization_config": 4}, "quantization_config cannot be 4"),
        ({"layer_types": ["linear_attention"] * 24}, "layer_types must be a list of sliding_attention"),
        ({"layer_types": [["full_attention"]] * 24}, "layer_types must be a list of"),
        ({"layer_types": ["full_attention"] * 23}, "sliding names 23 layers of 24"),
        ({"rope_scaling": None}, "rope_type is None"),
        ({"rope_scaling": {"rope_type": "linear", "factor": 2}}, "rope_type is 'linear'"),
        ({"rope_scaling": "yarn"}, "rope_scaling cannot be 'yarn'"),
        ({"rope_scaling": SHIPPED_20B["rope_scaling"] | {"truncate": True}}, "truncate must be false"),
        ({"rope_scaling": without(SHIPPED_20B["rope_scaling"], "truncate")}, "truncate must be false"),
        ({"rope_scaling": without(SHIPPED_20B["rope_scaling"], "factor")}, "missing rope key 'factor'"),
        ({"rope_scaling": SHIPPED_20B["rope_scaling"] | {"mscale": 1.0}}, "unknown rope key 'mscale'"),
        ({"rope_theta": 1e4, "rope_parameters": {"rope_theta": 1.5e5}}, "rope_theta is given twice"),
        ({"initial_context_length": 8192}, "original_max_position_embeddings is given twice, as 4096 and 8192"),
        ({"hidden_size": 2881}, "hidden 2881 must be a multiple of 32"),
        ({"intermediate_size": 16}, "intermediate 16 must be a multiple of 32"),
        ({"num_key_value_heads": 7}, "heads 64 must be a multiple of kv_heads 7"),
        ({"head_dim": 63}, "head_dim 63 must be even"),
        ({"num_experts_per_tok": 33, "experts_per_token": 33}, "experts_per_token 33 must not pass experts 32"),
        ({"num_hidden_layers": 0, "layer_types": []}, "layers must be at least 1"),
        ({"num_hidden_layers": "24"}, "num_hidden_layers cannot be '24'"),
        ({"vocab_size": 201088.0}, "vocab_size cannot be 201088.0"),
        ({"sliding_window": None}, "sliding_window cannot be None"),
        ({"rms_norm_eps": float("nan")}, "rms_norm_eps cannot be nan"),
        ({"eos_token_id": 201088}, r"token ids \[201088, 199999\] must lie in a vocabulary of 201088"),
        ({"eos_token_id": "stop"}, "eos_token_id cannot be 'stop'"),
    ],
)
def test_what_is_wrong_is_named(change, message):
    with pytest.raises(ValueError, match=message):
        ModelConfig.from_json(SHIPPED_20B | change)


@pytest.mark.parametrize("key", ["hidden_size", "num_local_experts", "sliding_window", "max_position_embeddings"])
def test_a_missing_key_is_named(key):
    with pytest.raises(ValueError, match=f"missing key '{key}'"):
        ModelConfig.from_json(without(SHIPPED_20B, key))


def test_the_original_layout_is_as_strict():
    with pytest.raises(ValueError, match="unknown key 'dtype'"):
        ModelConfig.from_json(ORIGINAL_20B | {"dtype": "bf16"})
    with pytest.raises(ValueError, match="missing key 'num_experts'"):
        ModelConfig.from_json(without(ORIGINAL_20B, "num_experts"))
    with pytest.raises(ValueError, match="rope_ntk_beta cannot be 'fast'"):
        ModelConfig.from_json(ORIGINAL_20B | {"rope_ntk_beta": "fast"})


def test_fields_given_in_code_are_checked_alike():
    with pytest.raises(ValueError, match="wrong type: layers='2', sliding=\\[True\\]"):
        dataclasses.replace(ModelConfig.preset("gpt-oss-20b"), layers="2", sliding=[True])
    with pytest.raises(ValueError, match="presets are gpt-oss-120b, gpt-oss-20b"):
        ModelConfig.preset("gpt-oss-7b")
