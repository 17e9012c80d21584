"""The shape of a gpt-oss model: one frozen dataclass, its presets, and both layouts of config.json.

In: a preset's name, or a parsed config.json in Hugging Face's or the original layout. Out: `ModelConfig`.
"""

import math
from dataclasses import dataclass, fields
from typing import Any, Literal

from ossia.files import shown
from ossia.kernels.ops import AttentionShape, Rope
from ossia.quant import QBLOCK

RETURN, ENDOFTEXT = 200002, 199999  # o200k_harmony's <|return|> and <|endoftext|>: eos and pad
_LAYER_TYPES = {"sliding_attention": True, "full_attention": False}

# field: key of config.json
_HF_KEYS = {
    "layers": "num_hidden_layers",
    "hidden": "hidden_size",
    "intermediate": "intermediate_size",
    "heads": "num_attention_heads",
    "kv_heads": "num_key_value_heads",
    "head_dim": "head_dim",
    "experts": "num_local_experts",
    "experts_per_token": "num_experts_per_tok",
    "vocab": "vocab_size",
    "window": "sliding_window",
    "max_context": "max_position_embeddings",
    "swiglu_limit": "swiglu_limit",
    "norm_eps": "rms_norm_eps",
    "pad_token": "pad_token_id",
    "router_aux_loss_coef": "router_aux_loss_coef",
    "initializer_range": "initializer_range",
}
_ORIGINAL_KEYS = {
    "layers": "num_hidden_layers",
    "hidden": "hidden_size",
    "intermediate": "intermediate_size",
    "heads": "num_attention_heads",
    "kv_heads": "num_key_value_heads",
    "head_dim": "head_dim",
    "experts": "num_experts",
    "experts_per_token": "experts_per_token",
    "vocab": "vocab_size",
    "window": "sliding_window",
    "initial_context": "initial_context_length",
    "rope_theta": "rope_theta",
    "rope_factor": "rope_scaling_factor",
    "rope_beta_fast": "rope_ntk_beta",
    "rope_beta_slow": "rope_ntk_alpha",
    "swiglu_limit": "swiglu_limit",
}
# keys with a fixed value in this architecture
_HF_FIXED = {
    "model_type": "gpt_oss",
    "attention_bias": True,
    "hidden_act": "silu",
    "is_encoder_decoder": False,
    "swiglu_alpha": 1.702,
    "tie_word_embeddings": False,
}
# keys that are read elsewhere, and keys that do not describe the model's shape
_HF_READ = {
    "eos_token_id", "experts_per_token", "initial_context_length", "layer_types", "quantization_config",
    "rope_parameters", "rope_scaling", "rope_theta",
}  # fmt: skip
_HF_IGNORED = {
    "_attn_implementation", "_name_or_path", "architectures", "attention_dropout", "bos_token_id",
    "chunk_size_feed_forward", "dtype", "id2label", "label2id", "output_attentions", "output_hidden_states",
    "output_router_logits", "problem_type", "return_dict", "torch_dtype", "transformers_version", "unsloth_fixed",
    "unsloth_version", "use_cache",
}  # fmt: skip
_ROPE_KEYS = {
    "initial_context": "original_max_position_embeddings",
    "rope_theta": "rope_theta",
    "rope_factor": "factor",
    "rope_beta_fast": "beta_fast",
    "rope_beta_slow": "beta_slow",
}
# upper limits, far above any model of the family, so that a hostile file cannot exhaust memory
_LIMITS: dict[str, float] = {
    "layers": 1000, "hidden": 1 << 18, "intermediate": 1 << 18, "heads": 4096, "kv_heads": 4096, "head_dim": 4096,
    "experts": 4096, "experts_per_token": 4096, "vocab": 1 << 24, "window": 1 << 24, "max_context": 1 << 24,
    "initial_context": 1 << 24, "rope_theta": 1e12, "rope_factor": 1e6, "rope_beta_fast": 1e6, "rope_beta_slow": 1e6,
    "swiglu_limit": 1e9, "norm_eps": 1.0, "router_aux_loss_coef": 1e9, "initializer_range": 1e9,
}  # fmt: skip


PRESETS = {"gpt-oss-120b": (36, 128), "gpt-oss-20b": (24, 32)}  # layers, experts


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """The shape of a gpt-oss model. Layer i attends to the last `window` tokens if `sliding[i]`, else to all.

    Raises ValueError with all fields that are wrong.
    """

    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_dim: int
    experts: int
    experts_per_token: int
    vocab: int
    window: int
    sliding: tuple[bool, ...]
    max_context: int = 131072
    initial_context: int = 4096
    rope_theta: float = 150000.0
    rope_factor: float = 32.0
    rope_beta_fast: float = 32.0
    rope_beta_slow: float = 1.0
    swiglu_limit: float = 7.0
    norm_eps: float = 1e-5
    eos_token: int | None = None
    pad_token: int | None = None
    router_aux_loss_coef: float = 0.9
    initializer_range: float = 0.02

    def __post_init__(self) -> None:
        wrong_types = [f.name for f in fields(self) if not _has_type(getattr(self, f.name), f.type)]
        if wrong_types:
            raise ValueError(
                "model config: wrong type: " + ", ".join(f"{n}={shown(getattr(self, n))}" for n in wrong_types)
            )
        counts = ("layers", "hidden", "intermediate", "heads", "kv_heads", "head_dim", "experts", "experts_per_token")
        counts += ("vocab", "window", "max_context", "initial_context")
        rules = {f"{name} must be at least 1": getattr(self, name) >= 1 for name in counts}
        rules |= {f"{name} must be at most {limit:,}": getattr(self, name) <= limit for name, limit in _LIMITS.items()}
        if all(rules.values()):
            rules = self._rules()
        if broken := [rule for rule, holds in rules.items() if not holds]:
            raise ValueError("model config: " + "; ".join(broken))

    def _rules(self) -> dict[str, bool]:
        k, experts, sliding = self.experts_per_token, self.experts, len(self.sliding)
        slow, fast = self.rope_beta_slow, self.rope_beta_fast
        tokens = [t for t in (self.eos_token, self.pad_token) if t is not None]
        return {
            f"hidden {self.hidden} must be a multiple of {QBLOCK}": self.hidden % QBLOCK == 0,
            f"intermediate {self.intermediate} must be a multiple of {QBLOCK}": self.intermediate % QBLOCK == 0,
            f"heads {self.heads} must be a multiple of kv_heads {self.kv_heads}": self.heads % self.kv_heads == 0,
            f"head_dim {self.head_dim} must be even": self.head_dim % 2 == 0,
            f"experts_per_token {k} must not pass experts {experts}": k <= experts,
            f"sliding names {sliding} layers of {self.layers}": sliding == self.layers,
            f"rope_theta {self.rope_theta} must pass 1": self.rope_theta > 1,
            f"rope_factor {self.rope_factor} must be at least 1": self.rope_factor >= 1,
            f"rope_beta_fast {fast} must pass rope_beta_slow {slow}, both above 0": 0 < slow < fast,
            f"swiglu_limit {self.swiglu_limit} must be above 0": self.swiglu_limit > 0,
            f"norm_eps {self.norm_eps} must be above 0": self.norm_eps > 0,
            f"token ids {tokens} must lie in a vocabulary of {self.vocab}": all(0 <= t < self.vocab for t in tokens),
        }

    @staticmethod
    def preset(name: str) -> "ModelConfig":
        """The config of a published model: "gpt-oss-120b" or "gpt-oss-20b"."""
        if name not in PRESETS:
            raise ValueError(f"unknown model {name!r}: the presets are {', '.join(PRESETS)}")
        layers, experts = PRESETS[name]
        return ModelConfig(
            layers=layers, hidden=2880, intermediate=2880, heads=64, kv_heads=8, head_dim=64, experts=experts,
            experts_per_token=4, vocab=201088, window=128, sliding=alternating(layers), eos_token=RETURN,
            pad_token=ENDOFTEXT,
        )  # fmt: skip

    @staticmethod
    def from_json(raw: dict[str, Any]) -> "ModelConfig":
        """Read a parsed config.json in either layout. Raises ValueError for an unknown key or a bad value."""
        if "rope_scaling_factor" in raw:
            return _from_original(raw)
        if raw.get("model_type") == "gpt_oss":
            return _from_hf(raw)
        raise ValueError(
            f"config.json: model_type is {shown(raw.get('model_type'))}: Ossia runs the gpt-oss family, whose model_type is "
            "'gpt_oss' (an original/config.json has rope_scaling_factor instead)"
        )

    def to_json(self, layout: Literal["hf", "original"] = "hf", quantized: bool = True) -> dict[str, Any]:
        """The config.json of this model. quantized: the experts are MXFP4, which the original layout always has.

        Raises ValueError if the original layout, which has fewer keys, cannot express this model.
        """
        return _to_hf(self, quantized) if layout == "hf" else _to_original(self)

    @property
    def windows(self) -> tuple[int, ...]:
        """The number of tokens each layer's attention sees, itself included; 0 for all."""
        return tuple(self.window if sliding else 0 for sliding in self.sliding)

    @property
    def rope(self) -> Rope:
        return Rope(self.rope_theta, self.rope_factor, self.initial_context, self.rope_beta_fast, self.rope_beta_slow)

    @property
    def shapes(self) -> list[AttentionShape]:
        """The attention parameters of each layer."""
        return [AttentionShape(self.heads, self.kv_heads, self.head_dim, window, self.rope) for window in self.windows]


def alternating(layers: int) -> tuple[bool, ...]:
    """The family's pattern: even layers slide, odd layers have full attention."""
    return tuple(layer % 2 == 0 for layer in range(layers))


def _has_type(value: object, kind: Any) -> bool:
    if kind == tuple[bool, ...]:
        return isinstance(value, tuple) and all(isinstance(v, bool) for v in value)
    finite = not isinstance(value, float) or math.isfinite(value)
    return isinstance(value, kind) and not isinstance(value, bool) and finite


def _named(raw: dict[str, Any], keys: dict[str, str]) -> dict[str, Any]:
    """The fields found under `keys`. Integers become floats where a field is a float."""
    kinds = {f.name: f.type for f in fields(ModelConfig)}
    found = {}
    for name, key in keys.items():
        if key in raw:
            value: Any = _as_float(raw[key]) if kinds[name] is float else raw[key]
            if not _has_type(value, kinds[name]):
                raise ValueError(f"config.json: {key} cannot be {shown(raw[key])}")
            if name in _LIMITS and value is not None and value > _LIMITS[name]:
                raise ValueError(f"config.json: {key} is {shown(raw[key])}; at most {_LIMITS[name]:,} is read")
            found[name] = value
    return found


def _as_float(value: Any) -> Any:
    try:
        return float(value) if type(value) is int else value
    except OverflowError:
        return math.inf


def _section(raw: dict[str, Any], key: str) -> dict[str, Any]:
    section = raw.get(key) or {}
    if not isinstance(section, dict):
        raise ValueError(f"config.json: {key} cannot be {shown(section)}")
    return section


def _check_keys(raw: dict[str, Any], known: set[str], optional: set[str], keys: dict[str, str]) -> None:
    if unknown := sorted(raw.keys() - known):
        raise ValueError(
            f"config.json: unknown key {_listed(unknown)}: this is not a gpt-oss config.json that Ossia knows; "
            "remove the key if it does not change the computation"
        )
    if missing := sorted(key for name, key in keys.items() if key not in raw and name not in optional):
        raise ValueError(f"config.json: missing key {_listed(missing)}")


def _listed(names: list[str], limit: int = 5) -> str:
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(map(shown, names[:limit])) + more


def _from_original(raw: dict[str, Any]) -> ModelConfig:
    _check_keys(raw, set(_ORIGINAL_KEYS.values()), {"swiglu_limit"}, _ORIGINAL_KEYS)
    named = _named(raw, _ORIGINAL_KEYS)
    harmony = named["vocab"] > RETURN
    return ModelConfig(
        **named,
        sliding=alternating(named["layers"]),
        max_context=round(named["initial_context"] * named["rope_factor"]),
        eos_token=RETURN if harmony else None,
        pad_token=ENDOFTEXT if harmony else None,
    )


def _from_hf(raw: dict[str, Any]) -> ModelConfig:
    known = set(_HF_KEYS.values()) | _HF_FIXED.keys() | _HF_READ | _HF_IGNORED
    # keys that transformers fills with the family's values
    optional = {"swiglu_limit", "norm_eps", "pad_token", "router_aux_loss_coef", "initializer_range"}
    _check_keys(raw, known, optional, _HF_KEYS)
    for key, value in _HF_FIXED.items():
        if raw.get(key, value) != value:
            raise ValueError(f"config.json: {key} is {shown(raw[key])}; a gpt-oss model has {value!r}")
    if raw.get("experts_per_token", raw["num_experts_per_tok"]) != raw["num_experts_per_tok"]:
        raise ValueError("config.json: experts_per_token and num_experts_per_tok differ")
    method = _section(raw, "quantization_config").get("quant_method", "mxfp4")
    if method != "mxfp4":
        raise ValueError(
            f"config.json: quant_method is {shown(method)}; Ossia reads 'mxfp4' and unquantized checkpoints"
        )
    named = _named(raw, _HF_KEYS)
    eos = raw.get("eos_token_id")
    first = {"eos_token_id": eos[0] if isinstance(eos, list) and eos else eos}
    named |= _named(first, {"eos_token": "eos_token_id"}) | _hf_rope(raw)
    return ModelConfig(**named, sliding=_hf_sliding(raw, named["layers"]))


def _hf_sliding(raw: dict[str, Any], layers: int) -> tuple[bool, ...]:
    types = raw.get("layer_types")
    if types is None:
        return alternating(layers)
    if not isinstance(types, list) or any(t not in list(_LAYER_TYPES) for t in types):
        raise ValueError(f"config.json: layer_types must be a list of {' and '.join(_LAYER_TYPES)}, got {shown(types)}")
    return tuple(_LAYER_TYPES[t] for t in types)


def _hf_rope(raw: dict[str, Any]) -> dict[str, Any]:
    """The rope fields, from `rope_scaling` plus `rope_theta`, from `rope_parameters`, or from both."""
    rope = _merged_rope(raw)
    kind = rope.pop("rope_type", None) or rope.pop("type", None)
    if kind == "default":
        rope |= {"factor": 1, "truncate": False}  # plain rope uses neither
        rope.setdefault("original_max_position_embeddings", raw["max_position_embeddings"])
    elif kind != "yarn":
        raise ValueError(
            f"config.json: rope_type is {shown(kind)}; want 'yarn' or 'default' in rope_scaling or rope_parameters"
        )
    if unknown := sorted(rope.keys() - _ROPE_KEYS.values() - {"truncate"}):
        raise ValueError(f"config.json: unknown rope key {_listed(unknown)}")
    if missing := sorted({"rope_theta", "factor", "original_max_position_embeddings"} - rope.keys()):
        raise ValueError(f"config.json: missing rope key {', '.join(map(repr, missing))}")
    if rope.get("truncate") is not False:
        raise ValueError("config.json: rope truncate must be false: gpt-oss does not round YaRN's borders")
    return _named(rope, _ROPE_KEYS)


def _merged_rope(raw: dict[str, Any]) -> dict[str, Any]:
    beside = {
        "rope_theta": raw.get("rope_theta"),
        "original_max_position_embeddings": raw.get("initial_context_length"),
    }
    rope: dict[str, Any] = {}
    for source in (_section(raw, "rope_parameters"), _section(raw, "rope_scaling"), beside):
        for key, value in source.items():
            if value is not None and rope.setdefault(key, value) != value:
                raise ValueError(f"config.json: {key} is given twice, as {shown(rope[key])} and {shown(value)}")
    return rope


def _to_hf(config: ModelConfig, quantized: bool) -> dict[str, Any]:
    raw: dict[str, Any] = {key: getattr(config, name) for name, key in _HF_KEYS.items()} | _HF_FIXED
    for key in ("is_encoder_decoder", "swiglu_alpha"):  # not in the published files
        del raw[key]
    names = {sliding: name for name, sliding in _LAYER_TYPES.items()}
    raw |= {
        "architectures": ["GptOssForCausalLM"],
        "attention_dropout": 0.0,
        "eos_token_id": config.eos_token,
        "experts_per_token": config.experts_per_token,
        "initial_context_length": config.initial_context,
        "layer_types": [names[sliding] for sliding in config.sliding],
        "output_router_logits": False,
        "rope_scaling": {
            "beta_fast": config.rope_beta_fast,
            "beta_slow": config.rope_beta_slow,
            "factor": config.rope_factor,
            "original_max_position_embeddings": config.initial_context,
            "rope_type": "yarn",
            "truncate": False,
        },
        "rope_theta": config.rope_theta,
        "use_cache": True,
    }
    if quantized:
        dense = ["model.layers.*.self_attn", "model.layers.*.mlp.router", "model.embed_tokens", "lm_head"]
        raw["quantization_config"] = {"modules_to_not_convert": dense, "quant_method": "mxfp4"}
    else:
        raw["torch_dtype"] = "bfloat16"
    return dict(sorted(raw.items()))


def _to_original(config: ModelConfig) -> dict[str, Any]:
    raw = {key: getattr(config, name) for name, key in _ORIGINAL_KEYS.items()}
    read_back = _from_original(raw)
    lost = [n for n in ("sliding", "max_context", "norm_eps") if getattr(read_back, n) != getattr(config, n)]
    if lost:
        values = ", ".join(f"{n}={getattr(config, n)!r}" for n in lost)
        raise ValueError(f"the original layout cannot express {values}: write the Hugging Face layout")
    return raw
