"""The name and shape of each tensor of a gpt-oss checkpoint, in the three published layouts.

In: a `ModelConfig` and a layout. Out: the tensors that a checkpoint must hold, in the order they are written.

Layouts: "hf" is Hugging Face's with MXFP4 experts; "bf16" the same with dense experts, input dimension first;
"original" is OpenAI's, with q, k and v in one tensor.
"""

from collections.abc import Callable
from typing import Literal, NamedTuple

from ossia.model.config import ModelConfig
from ossia.quant import QBLOCK

Layout = Literal["hf", "bf16", "original"]
LAYOUTS: tuple[Layout, ...] = ("hf", "bf16", "original")


class LayoutRow(NamedTuple):
    """One of our tensors: its dimensions (letters of `_dims`) and its names. `a|b|c` names the parts of a split
    tensor.
    """

    field: str
    dims: str
    hf: str
    original: str


EMBEDDING = LayoutRow("embedding", "VD", "model.embed_tokens.weight", "embedding.weight")
NORM = LayoutRow("norm", "D", "model.norm.weight", "norm.scale")
UNEMBEDDING = LayoutRow("unembedding", "VD", "lm_head.weight", "unembedding.weight")
_QKV = "self_attn.q_proj.{0}|self_attn.k_proj.{0}|self_attn.v_proj.{0}"
LAYER = (
    LayoutRow("attn_norm", "D", "input_layernorm.weight", "attn.norm.scale"),
    LayoutRow("qkv_weight", "RD", _QKV.format("weight"), "attn.qkv.weight"),
    LayoutRow("qkv_bias", "R", _QKV.format("bias"), "attn.qkv.bias"),
    LayoutRow("sinks", "H", "self_attn.sinks", "attn.sinks"),
    LayoutRow("out_weight", "DQ", "self_attn.o_proj.weight", "attn.out.weight"),
    LayoutRow("out_bias", "D", "self_attn.o_proj.bias", "attn.out.bias"),
    LayoutRow("mlp_norm", "D", "post_attention_layernorm.weight", "mlp.norm.scale"),
    LayoutRow("router_weight", "ED", "mlp.router.weight", "mlp.gate.weight"),
    LayoutRow("router_bias", "E", "mlp.router.bias", "mlp.gate.bias"),
    LayoutRow("up_weight", "EUD", "mlp.experts.gate_up_proj", "mlp.mlp1_weight"),
    LayoutRow("up_bias", "EU", "mlp.experts.gate_up_proj_bias", "mlp.mlp1_bias"),
    LayoutRow("down_weight", "EDF", "mlp.experts.down_proj", "mlp.mlp2_weight"),
    LayoutRow("down_bias", "ED", "mlp.experts.down_proj_bias", "mlp.mlp2_bias"),
)
_EXPERTS = ("up_weight", "down_weight")
_LAYER_PREFIX = {"hf": "model.layers.{}.", "bf16": "model.layers.{}.", "original": "block.{}."}


class StoredTensor(NamedTuple):
    """A tensor in a file. form: "dense" numbers, MXFP4 "blocks" or "scales", or "turned": a dense tensor [E, in, out]
    where ours is [E, out, in].
    """

    name: str
    shape: tuple[int, ...]
    form: Literal["dense", "blocks", "scales", "turned"]


def shape(config: ModelConfig, row: LayoutRow) -> tuple[int, ...]:
    """The shape of our tensor, with the input dimension last."""
    return tuple(_dims(config)[dim] for dim in row.dims)


def stored(config: ModelConfig, layout: Layout, row: LayoutRow, layer: int | None = None) -> tuple[StoredTensor, ...]:
    """The tensors that hold `row` of `layer`: several if q, k and v, or blocks and scales, are separate."""
    prefix = "" if layer is None else _LAYER_PREFIX[layout].format(layer)
    names = [prefix + name for name in (row.original if layout == "original" else row.hf).split("|")]
    whole = shape(config, row)
    if len(names) == 3:
        parts = (config.heads * config.head_dim, *2 * (config.kv_heads * config.head_dim,))
        return tuple(StoredTensor(name, (part, *whole[1:]), "dense") for name, part in zip(names, parts))
    if row.field not in _EXPERTS:
        return (StoredTensor(names[0], whole, "dense"),)
    experts, rows, columns = whole
    if layout == "bf16":
        return (StoredTensor(names[0], (experts, columns, rows), "turned"),)
    mark, groups = "." if layout == "original" else "_", columns // QBLOCK
    return (
        StoredTensor(f"{names[0]}{mark}blocks", (experts, rows, groups, QBLOCK // 2), "blocks"),
        StoredTensor(f"{names[0]}{mark}scales", (experts, rows, groups), "scales"),
    )


def all_stored(
    config: ModelConfig,
    layout: Layout,
    instead: Callable[[LayoutRow, int], tuple[StoredTensor, ...]] = lambda row, layer: (),
) -> dict[str, StoredTensor]:
    """All tensors of a checkpoint by name, in the order they are written: embedding, layers, norm, unembedding.

    instead: the stored tensors of a layer's row, if they differ from the layout's; empty if not.
    """
    rows: list[tuple[LayoutRow, int | None]] = [(EMBEDDING, None)]
    rows += [(row, layer) for layer in range(config.layers) for row in LAYER]
    rows += [(NORM, None), (UNEMBEDDING, None)]
    wanted: dict[str, StoredTensor] = {}
    for row, layer in rows:
        own = () if layer is None else instead(row, layer)
        wanted |= {part.name: part for part in own or stored(config, layout, row, layer)}
    return wanted


def _dims(config: ModelConfig) -> dict[str, int]:
    """D hidden, V vocabulary, H heads, Q width of all heads, R rows of q, k and v, E experts, F expert width, U = 2F."""
    c = config
    return {
        "D": c.hidden,
        "V": c.vocab,
        "H": c.heads,
        "Q": c.heads * c.head_dim,
        "R": (c.heads + 2 * c.kv_heads) * c.head_dim,
        "E": c.experts,
        "F": c.intermediate,
        "U": 2 * c.intermediate,
    }
