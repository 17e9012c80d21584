"""The op set: the border between the model page and the code that computes.

In: host tensors (from a checkpoint) and a `Batch` of rows. Out: a backend's own arrays, at the end float32 logits.
It does not know what a layer is, where the weights came from, or who asked.

Shape legend: T rows of a batch, S sequences, R rows whose logits are wanted, D hidden, H query heads, G key/value heads,
d head width, E experts, K experts a row, F expert width, V vocabulary, B cache blocks of a sequence.
"""

from importlib import import_module
from typing import Any, Literal, NamedTuple, Protocol, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray

from ossia.quant import Mxfp4

Backend = Literal["reference", "cpu", "triton"]
Dense = Literal["int8", "int4", "bf16"]  # what a backend keeps attention's and the unembedding's weights in
KeyValues = Literal["bf16", "int8", "f32"]

# A dense tensor on the host: float32, float16, or bfloat16 carried as its uint16 bits.
HostArray: TypeAlias = NDArray[np.float32] | NDArray[np.float16] | NDArray[np.uint16]

BLOCK = 16  # tokens in one block of the paged KV cache
SWIGLU_SLOPE = 1.702  # of the gate's sigmoid


class Rope(NamedTuple):
    """Rotary embedding with YaRN scaling (arXiv:2309.00071); `factor` 1 is plain RoPE."""

    theta: float
    factor: float
    initial_context: int
    beta_fast: float
    beta_slow: float


class AttentionShape(NamedTuple):
    """What attention needs to know of a layer; `window` 0 sees everything before."""

    heads: int
    kv_heads: int
    head_dim: int
    window: int
    rope: Rope


class Batch(NamedTuple):
    """The rows of one forward pass, ragged over sequences; rows of a sequence are neighbours, in order.

    tokens_T, positions_T: int32. starts_S1: int32, the rows of sequence s are starts[s]:starts[s+1].
    Their positions follow one another from any first. blocks_SB: int32, cache blocks of each sequence in order, padded
    with 0: the key of position p of sequence s lives at block blocks[s, p // BLOCK], offset p % BLOCK. windows_SB: the same
    for the sliding layers; where no row of the batch sees a block any more, any number may stand. Without a cache neither
    is read. sampled_R: int32, rows whose logits are wanted.
    """

    tokens_T: NDArray[np.int32]
    positions_T: NDArray[np.int32]
    starts_S1: NDArray[np.int32]
    blocks_SB: NDArray[np.int32]
    windows_SB: NDArray[np.int32]
    sampled_R: NDArray[np.int32]


class CacheBytes(NamedTuple):
    """What one block takes over all full-attention layers together, and over all sliding ones; 0 where there are none."""

    full: int
    window: int


class Ops(Protocol):
    """One module per backend satisfies this. `Any` is the backend's own array or weight object.

    The makers pack a host tensor once, at load; the ops compute. Every op is row-wise: a row's bits never depend on
    the rows beside it. An op may overwrite its `qkv` or `residual_TD` and return it. `cache` makes one a layer: of
    `blocks` blocks where attention is full, of `window_blocks` where it slides. `gated` experts' rows are gates and ups by
    turns, for SwiGLU. `soon`: the weight that the next op takes; a backend may fetch it meanwhile.
    """

    def vector(self, host: HostArray) -> Any: ...
    def embedding(self, table_VD: HostArray) -> Any: ...
    def linear(self, weight_RD: HostArray, bias_R: HostArray | None) -> Any: ...
    def router(self, weight_ED: HostArray, bias_E: HostArray) -> Any: ...
    def experts(self, weight_ERD: HostArray | Mxfp4, bias_ER: HostArray, gated: bool) -> Any: ...
    def attention(self, shape: AttentionShape, sinks_H: HostArray) -> Any: ...
    def cache(self, shapes: list[AttentionShape], blocks: int, window_blocks: int) -> list[Any]: ...
    def cache_bytes(self, shapes: list[AttentionShape]) -> CacheBytes: ...

    def embed(self, tokens_T: NDArray[np.int32], table: Any) -> Any: ...
    def norm_linear(self, x_TD: Any, norm_D: Any, eps: float, weight: Any) -> Any: ...
    def attend(self, qkv: Any, attention: Any, cache: Any, batch: Batch, soon: Any = None) -> Any: ...
    def linear_add(self, x: Any, weight: Any, residual_TD: Any) -> Any: ...
    def route(self, x_TD: Any, norm_D: Any, eps: float, router: Any, k: int) -> Any: ...
    def experts_add(self, routing: Any, up: Any, down: Any, limit: float, residual_TD: Any) -> Any: ...
    def unembed(self, x_TD: Any, rows_R: NDArray[np.int32], norm_D: Any, eps: float, table: Any) -> Any: ...
    def host(self, logits_RV: Any) -> NDArray[np.float32]: ...


def ops(
    backend: Backend, *, dense: Dense = "int8", kv: KeyValues = "bf16", workers: int | None = None
) -> Ops:
    """The op set that computes on `backend`: "reference" (torch, the truth), "cpu" (Numba) or "triton" (GPU).

    The CPU's: `dense` weights in int8, int4 or bf16 (as they are, and all activations in 24 bits or more); keys and values
    in bf16, int8 or f32; so many `workers` (threads; None for the physical cores). The reference knows float32 only.
    """
    for name, given, known in (("dense", dense, get_args(Dense)), ("kv", kv, get_args(KeyValues))):
        if given not in known:
            raise ValueError(f"{name} {given!r} is none of {', '.join(known)}")
    match backend:
        case "reference":
            try:
                return import_module("ossia.kernels.reference").ReferenceOps()
            except ModuleNotFoundError as error:
                if error.name != "torch":
                    raise
                raise ModuleNotFoundError("backend 'reference' needs torch: pip install 'ossia[train]'") from error
        case "cpu":
            return import_module("ossia.kernels.cpu").CpuOps(dense, kv, workers)
        case "triton":
            raise ValueError("backend 'triton' is not in this release: use backend='cpu' or 'reference'")
    raise ValueError(f"unknown backend {backend!r}: use 'reference' or 'cpu'")
