# pyright: standard
"""The op set on a GPU: Triton kernels over torch tensors. torch provides memory, streams and graphs, but no
arithmetic.

In: host tensors, streamed to the GPU, and a `Batch`. Out: tensors on the device, and tokens sampled there.

The residual is float32; values between kernels are bfloat16. A decode step's launches are captured as a CUDA graph per
number of rows. Only `draw`, `host` and `wait` wait for the device.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ossia.kernels.ops import AttentionShape, Batch, Blocks, CacheBytes, Dense, Draw, HostArray, KeyValues, SampleResult
from ossia.kernels.sizes import cache_bytes
from ossia.kernels.triton.batch import Buffers, DeviceBatch, Layout, layout_for, make_buffers, on_device
from ossia.kernels.triton.graphs import Bucket, CudaRecorder, Graphs, Record, bucket_of
from ossia.kernels.triton.kernels.attention import Attention, Kind, LayerCache, attend, make_attention, make_cache
from ossia.kernels.triton.kernels.linear import Dense as DenseWeight
from ossia.kernels.triton.kernels.linear import Kind as DenseKind
from ossia.kernels.triton.kernels.linear import embed, linear_add, norm_linear, pack_dense, unembed
from ossia.kernels.triton.kernels.moe import Experts, experts_add, pack_experts
from ossia.kernels.triton.kernels.route import Router, Routing, pack_router, route
from ossia.kernels.triton.kernels.sample import SamplingRow, choices_on_device, sample_rows
from ossia.kernels.triton.kernels.tiles import INTERPRETED
from ossia.kernels.triton.kernels.tiles import on_device as tensor_on
from ossia.kernels.triton.tools.random_weights import CardStream
from ossia.quant import Mxfp4

INTERPRETED_SLOTS = 8  # spare programs of a graph's grid under the interpreter, which runs them one by one


class Caches(list[LayerCache]):
    """The layers' caches, with the graphs captured over them. Both are freed together."""

    def __init__(self, layers: Sequence[LayerCache], graphs: Graphs | None) -> None:
        super().__init__(layers)
        self.graphs = graphs


class GraphBatch(NamedTuple):
    """A batch in the buffers of a graph."""

    buffers: Buffers
    batch: DeviceBatch


class BatchWriter:
    """Writes decode batches into graph buffers. All graphs share the buffers for attention's partial sums."""

    def __init__(self, layout: Layout, device: torch.device) -> None:
        self._layout, self._device = layout, device
        self._shared = make_buffers(layout, device, 1, 1)

    def __call__(self, batch: Batch, bucket: Bucket, held: GraphBatch | None) -> GraphBatch:
        if held is None:
            made = make_buffers(self._layout, self._device, *bucket)
            buffers = self._shared._replace(ints=made.ints, rows=made.rows)
        else:
            buffers = held.buffers
        return GraphBatch(buffers, on_device(batch, self._device, self._layout, buffers, bucket.rows))


class TritonOps:
    """dense: type of the attention and unembedding weights. kv: type of keys and values; fp8 applies to full-attention
    layers.

    record: how a decode step becomes a graph. Default: CUDA graphs; none under the interpreter.
    """

    name = "triton"

    def __init__(
        self, dense: Dense = "bf16", kv: KeyValues = "bf16", record: Callable[[], Record] | None = None
    ) -> None:
        self.device = torch.device("cpu" if INTERPRETED.value else "cuda")
        self._dense: DenseKind = "int8" if dense == "int8" else "bf16"
        self._kv: Kind = "fp8" if kv == "fp8" else "bf16"
        self._record = record or (None if INTERPRETED.value else CudaRecorder)
        self.stream = partial(CardStream, device=self.device)  # random weights, generated on the device

    # makers: called once, at load

    def vector(self, host: HostArray) -> Tensor:
        return tensor_on(host, self.device, torch.float32)

    def embedding(self, table_VD: HostArray) -> Tensor:
        return tensor_on(table_VD, self.device)

    def linear(self, weight_RD: HostArray, bias_R: HostArray | None) -> DenseWeight:
        return pack_dense(weight_RD, bias_R, self.device, self._dense)

    def router(self, weight_ED: HostArray, bias_E: HostArray) -> Router:
        """Never quantized: a small error can change which experts are chosen."""
        return pack_router(weight_ED, bias_E, self.device)

    def experts(self, weight_ERD: HostArray | Mxfp4, bias_ER: HostArray, gated: bool) -> Experts:
        return pack_experts(weight_ERD, bias_ER, gated, self.device)

    def attention(self, shape: AttentionShape, sinks_H: HostArray) -> Attention:
        return make_attention(shape, sinks_H, self.device)

    def cache(self, shapes: list[AttentionShape], blocks: int, window_blocks: int) -> Caches:
        layers = make_cache(shapes, blocks, window_blocks, self._kv, self.device)
        if not self._record:
            return Caches(layers, None)
        return Caches(layers, Graphs(self._record(), BatchWriter(self._layout(shapes[0]), self.device)))

    def cache_bytes(self, shapes: list[AttentionShape]) -> CacheBytes:
        return cache_bytes(shapes, self._kv)

    def discard(self, cache: Caches, shapes: list[AttentionShape], blocks: Blocks, window_blocks: Blocks) -> None:
        """Does nothing: the GPU's cache is allocated once, at the start."""

    # a pass

    def run(
        self, forward: Callable[[Any], Any], batch: Batch, cache: list[Any] | None, shape: AttentionShape
    ) -> Tensor:
        graphs = cache.graphs if isinstance(cache, Caches) else None
        if graphs and bucket_of(batch):
            return graphs.run(lambda held: forward(held.batch), batch)
        return forward(on_device(batch, self.device, self._layout(shape), has_cache=cache is not None))

    def _layout(self, shape: AttentionShape) -> Layout:
        layout = layout_for(shape, self.device)
        return layout._replace(slots=INTERPRETED_SLOTS) if self.device.type == "cpu" else layout

    def embed(self, tokens_T: Tensor, table: Tensor) -> Tensor:
        return embed(tokens_T, table)

    def norm_linear(self, x_TD: Tensor, norm_D: Tensor, eps: float, weight: DenseWeight) -> Tensor:
        return norm_linear(x_TD, norm_D, eps, weight)

    def attend(
        self, qkv: Tensor, attention: Attention, cache: LayerCache | None, batch: DeviceBatch, prefetch: Any = None
    ) -> Tensor:
        return attend(qkv, attention, cache, batch)

    def linear_add(self, x: Tensor, weight: DenseWeight, residual_TD: Tensor) -> Tensor:
        return linear_add(x, weight, residual_TD)

    def route(self, x_TD: Tensor, norm_D: Tensor, eps: float, router: Router, k: int) -> Routing:
        return route(x_TD, norm_D, eps, router, k)

    def experts_add(self, routing: Routing, up: Experts, down: Experts, limit: float, residual_TD: Tensor) -> Tensor:
        return experts_add(routing, up, down, limit, residual_TD)

    def unembed(self, x_TD: Tensor, rows_R: Tensor, norm_D: Tensor, eps: float, table: DenseWeight) -> Tensor:
        return unembed(x_TD, rows_R, norm_D, eps, table)

    # results

    def host(self, logits_RV: Tensor) -> NDArray[np.float32]:
        return logits_RV.cpu().numpy()

    def draw(self, logits_RV: Tensor, rows: Sequence[int], draws: Sequence[Draw]) -> list[SampleResult] | None:
        """Sample tokens: one copy to the device, two more with masks and biases, and one copy back, which is waited
        for.
        """
        if [*rows] == [*range(rows[0], rows[0] + len(rows))]:
            chosen_RV = logits_RV[rows[0] : rows[0] + len(rows)]
        else:
            chosen_RV = logits_RV[torch.tensor(rows, device=self.device)]
        choices = choices_on_device([SamplingRow(*draw) for draw in draws], logits_RV.shape[1], self.device)
        tokens, logprobs = sample_rows(chosen_RV, choices)
        both = torch.cat([tokens, logprobs.view(torch.int32)]).cpu().numpy()
        results = zip(both[: len(rows)].tolist(), both[len(rows) :].view(np.float32).tolist())
        return [SampleResult(*each) for each in results]

    def wait(self, logits_RV: Tensor) -> None:
        if self.device.type == "cuda":
            torch.cuda.current_stream().synchronize()

    def free_bytes(self) -> int | None:
        """Bytes that the driver reports free, plus unused bytes in torch's pool."""
        if self.device.type != "cuda":
            return None
        free, _ = torch.cuda.mem_get_info()
        return free + torch.cuda.memory_reserved() - torch.cuda.memory_allocated()

    def held_bytes(self) -> int | None:
        return None if self.device.type != "cuda" else torch.cuda.max_memory_allocated()
