"""The op set: the border between the model page and the code that computes.

In: host tensors (from a checkpoint) and a `Batch` of rows. Out: a backend's own arrays, at the end float32 logits.
It does not know what a layer is, where the weights came from, or who asked.

Shape legend: T rows of a batch, S sequences, R rows whose logits are wanted, D hidden, H query heads, G key/value heads,
d head width, E experts, K experts a row, F expert width, V vocabulary, B cache blocks of a sequence.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ossia.quant import Mxfp4

Backend = Literal["reference", "cpu", "triton"]
Dense = Literal["int8", "int4", "bf16"]  # what a backend keeps attention's and the unembedding's weights in
KeyValues = Literal["bf16", "int8", "f32", "fp8"]

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


class Draw(NamedTuple):
    """How a row of logits becomes a token: where in (0, 1] its distribution is inverted, and what is cut off before.

    temperature 0 is greedy; top_k 0, top_p 1 and min_p 0 cut nothing. mask: a bit a token, little-endian; None allows
    all.
    """

    share: float
    temperature: float
    top_k: int
    top_p: float
    min_p: float
    mask: bytes | None
    bias: Mapping[int, float]


class SampleResult(NamedTuple):
    """A token and its log-probability under the model's own distribution.

    token NOTHING_LEFT: mask and bias leave none. token NOT_FINITE: the logits are no numbers.
    """

    token: int
    logprob: float


NOTHING_LEFT, NOT_FINITE = -1, -2


class CacheBytes(NamedTuple):
    """What one block takes over all full-attention layers together, and over all sliding ones; 0 where there are none."""

    full: int
    window: int


Blocks = Sequence[int]  # numbers of cache blocks


class Ops(Protocol):
    """One module per backend satisfies this. `Any` is the backend's own array or weight object.

    The makers pack a host tensor once, at load; the ops compute. Every op is row-wise: a row's bits never depend on
    the rows beside it. An op may overwrite its `qkv` or `residual_TD` and return it. `cache` makes one a layer: of
    `blocks` blocks where attention is full, of `window_blocks` where it slides. `gated` experts' rows are gates and ups by
    turns, for SwiGLU. `soon`: the weight that the next op takes; a backend may fetch it meanwhile.

    `run` is a whole pass: `page` makes logits of the batch as the backend holds it, which has a `Batch`'s fields;
    `shape` is of any layer: all have the same heads. `draw`
    makes tokens of some rows of logits, in one go; None where the backend leaves it to whoever asks. `wait` returns when
    the logits are there. `discard`: the contents of these blocks, sorted, are not needed; a backend may give their memory
    back to the system. `free_bytes`: what can be had of a memory that is taken at once; None where it is taken as it
    fills; `held_bytes`: the most that was taken of it so far.
    """

    def vector(self, host: HostArray) -> Any: ...
    def embedding(self, table_VD: HostArray) -> Any: ...
    def linear(self, weight_RD: HostArray, bias_R: HostArray | None) -> Any: ...
    def router(self, weight_ED: HostArray, bias_E: HostArray) -> Any: ...
    def experts(self, weight_ERD: HostArray | Mxfp4, bias_ER: HostArray, gated: bool) -> Any: ...
    def attention(self, shape: AttentionShape, sinks_H: HostArray) -> Any: ...
    def cache(self, shapes: list[AttentionShape], blocks: int, window_blocks: int) -> list[Any]: ...
    def cache_bytes(self, shapes: list[AttentionShape]) -> CacheBytes: ...
    def discard(
        self, cache: list[Any], shapes: list[AttentionShape], blocks: Blocks, window_blocks: Blocks
    ) -> None: ...

    def embed(self, tokens_T: NDArray[np.int32], table: Any) -> Any: ...
    def norm_linear(self, x_TD: Any, norm_D: Any, eps: float, weight: Any) -> Any: ...
    def attend(self, qkv: Any, attention: Any, cache: Any, batch: Batch, soon: Any = None) -> Any: ...
    def linear_add(self, x: Any, weight: Any, residual_TD: Any) -> Any: ...
    def route(self, x_TD: Any, norm_D: Any, eps: float, router: Any, k: int) -> Any: ...
    def experts_add(self, routing: Any, up: Any, down: Any, limit: float, residual_TD: Any) -> Any: ...
    def unembed(self, x_TD: Any, rows_R: NDArray[np.int32], norm_D: Any, eps: float, table: Any) -> Any: ...
    def host(self, logits_RV: Any) -> NDArray[np.float32]: ...

    def run(self, page: Callable[[Any], Any], batch: Batch, cache: list[Any] | None, shape: AttentionShape) -> Any: ...
    def draw(self, logits_RV: Any, rows: Sequence[int], draws: Sequence[Draw]) -> list[SampleResult] | None: ...
    def wait(self, logits_RV: Any) -> None: ...
    def free_bytes(self) -> int | None: ...
    def held_bytes(self) -> int | None: ...


class HostOps:
    """What a backend on the host has in common with every other: a batch is used as it is, and all is there at once."""

    def run(self, page: Callable[[Any], Any], batch: Batch, cache: list[Any] | None, shape: AttentionShape) -> Any:
        return page(batch)

    def draw(self, logits_RV: Any, rows: Sequence[int], draws: Sequence[Draw]) -> list[SampleResult] | None:
        return None

    def wait(self, logits_RV: Any) -> None:
        pass

    def discard(self, cache: list[Any], shapes: list[AttentionShape], blocks: Blocks, window_blocks: Blocks) -> None:
        pass

    def free_bytes(self) -> int | None:
        return None

    def held_bytes(self) -> int | None:
        return None
