"""The op set: the interface between the model and the backends that compute.

In: host tensors from a checkpoint, and a `Batch` of rows. Out: the backend's own arrays, and at the end float32
logits.

Shape suffixes: T rows of a batch, S sequences, R rows whose logits are computed, D hidden, H query heads, G key/value
heads, d head width, E experts, K experts per row, F expert width, V vocabulary, B cache blocks of a sequence.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple, Protocol, Self, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ossia.quant import Mxfp4

Backend = Literal["reference", "cpu", "triton"]
Dense = Literal["int8", "int4", "bf16"]  # type of the attention and unembedding weights
KeyValues = Literal["bf16", "int8", "f32", "fp8"]

# A dense tensor on the host: float32, float16, or bfloat16 carried as its uint16 bits.
HostArray: TypeAlias = NDArray[np.float32] | NDArray[np.float16] | NDArray[np.uint16]

BLOCK = 16  # tokens in one block of the paged KV cache
SWIGLU_SLOPE = 1.702  # factor inside the gate's sigmoid


class Rope(NamedTuple):
    """Rotary embedding with YaRN scaling (arXiv:2309.00071); `factor` 1 is plain RoPE."""

    theta: float
    factor: float
    initial_context: int
    beta_fast: float
    beta_slow: float


class AttentionShape(NamedTuple):
    """The attention parameters of one layer. window: how many positions a row sees, itself included; 0 for all of
    them.
    """

    heads: int
    kv_heads: int
    head_dim: int
    window: int
    rope: Rope


class Batch(NamedTuple):
    """The rows of one forward pass, ragged over sequences. Rows of one sequence are adjacent and in order.

    - tokens_T, positions_T: int32. Positions of a sequence are consecutive; the first may be any.
    - starts_S1: int32. Rows of sequence s are starts[s]:starts[s+1].
    - blocks_SB: int32, the cache blocks of each sequence, padded with 0. The key of position p of sequence s is at
      block blocks[s, p // BLOCK], offset p % BLOCK.
    - windows_SB: the same for the sliding layers. An entry whose block no row sees any more may hold any number.
    - sampled_R: int32, the rows whose logits are computed.

    Without a cache, blocks_SB and windows_SB are not read.
    """

    tokens_T: NDArray[np.int32]
    positions_T: NDArray[np.int32]
    starts_S1: NDArray[np.int32]
    blocks_SB: NDArray[np.int32]
    windows_SB: NDArray[np.int32]
    sampled_R: NDArray[np.int32]

    @classmethod
    def whole(cls, sequences: Sequence[Sequence[int]], sampled_R: Sequence[int] | NDArray[Any] | None = None) -> Self:
        """Whole sequences, for a pass without a cache. sampled_R: rows whose logits are computed; all unless given."""
        tokens_T = np.array([token for sequence in sequences for token in sequence], np.int32)
        positions_T = np.concatenate([np.arange(len(sequence), dtype=np.int32) for sequence in sequences])
        starts_S1 = np.cumsum([0, *map(len, sequences)]).astype(np.int32)
        none = np.zeros((len(sequences), 0), np.int32)
        every = np.arange(len(tokens_T)) if sampled_R is None else np.asarray(sampled_R)
        return cls(tokens_T, positions_T, starts_S1, none, none, every.astype(np.int32))


class Draw(NamedTuple):
    """How one row of logits becomes a token.

    uniform: a number in (0, 1] at which the cumulative distribution is inverted. temperature 0 is greedy. top_k 0,
    top_p 1 and min_p 0 are off. mask: one bit per token, little-endian; None allows all tokens.
    """

    uniform: float
    temperature: float
    top_k: int
    top_p: float
    min_p: float
    mask: bytes | None
    bias: Mapping[int, float]


class SampleResult(NamedTuple):
    """A token and its log-probability under the model's unmodified distribution.

    token NOTHING_LEFT: mask and bias allow no token. token NOT_FINITE: the logits are NaN or infinite.
    """

    token: int
    logprob: float


NOTHING_LEFT, NOT_FINITE = -1, -2


class CacheBytes(NamedTuple):
    """Bytes of one block over all full-attention layers, and over all sliding layers; 0 if there are no such layers."""

    full: int
    window: int


Blocks = Sequence[int]  # numbers of cache blocks


class Ops(Protocol):
    """What each backend implements. `Any` is the backend's own array or weight object.

    The makers (`vector` to `cache`) pack host tensors once, at load. The ops compute. Every op is row-wise: the bits
    of a row never depend on the other rows of the batch. An op may overwrite its `qkv` or `residual_TD` argument and
    return it.

    - cache: one cache per layer, with `blocks` blocks in full-attention layers and `window_blocks` in sliding layers.
    - experts: gated weights have alternating gate and up rows, for SwiGLU.
    - prefetch: the weight that the next op reads. A backend may load it into the cache meanwhile.
    - run: a whole pass. The backend calls `forward` with its own form of the batch, which has the fields of `Batch`.
      `shape` is that of any layer: all layers have the same heads.
    - draw: samples tokens from some rows of logits in one call. None: the caller samples on the host.
    - wait: returns when the logits are computed.
    - discard: the contents of these blocks (sorted) are not needed. A backend may return their memory to the system.
    - free_bytes: free memory for the cache, if the backend allocates it at once; None if it allocates as the cache
      fills.
    - held_bytes: the largest amount of that memory allocated so far.
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
    def attend(self, qkv: Any, attention: Any, cache: Any, batch: Batch, prefetch: Any = None) -> Any: ...
    def linear_add(self, x: Any, weight: Any, residual_TD: Any) -> Any: ...
    def route(self, x_TD: Any, norm_D: Any, eps: float, router: Any, k: int) -> Any: ...
    def experts_add(self, routing: Any, up: Any, down: Any, limit: float, residual_TD: Any) -> Any: ...
    def unembed(self, x_TD: Any, rows_R: NDArray[np.int32], norm_D: Any, eps: float, table: Any) -> Any: ...
    def host(self, logits_RV: Any) -> NDArray[np.float32]: ...

    def run(
        self, forward: Callable[[Any], Any], batch: Batch, cache: list[Any] | None, shape: AttentionShape
    ) -> Any: ...
    def draw(self, logits_RV: Any, rows: Sequence[int], draws: Sequence[Draw]) -> list[SampleResult] | None: ...
    def wait(self, logits_RV: Any) -> None: ...
    def free_bytes(self) -> int | None: ...
    def held_bytes(self) -> int | None: ...


class HostOps:
    """Defaults for backends that compute on the host: the batch is used as it is, and results are ready at once."""

    def run(self, forward: Callable[[Any], Any], batch: Batch, cache: list[Any] | None, shape: AttentionShape) -> Any:
        return forward(batch)

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
