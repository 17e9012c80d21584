"""What `benchmarks/gpu.py` measures, case by case: clocks, sequences in a cache, op against op, kernels alone, a peer.

In: models and sizes. Out: seconds, figures by name.
It does not know how long a run may take, or where figures go.
"""

import gc
import math
import statistics
import time
from collections.abc import Callable, Iterator
from itertools import cycle
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ossia.bench.counts import expected_experts
from ossia.engine.blocks import blocks_for
from ossia.engine.cache import PagedCache
from ossia.engine.plan import GPU_BATCHED_TOKENS
from ossia.kernels.ops import BLOCK, AttentionShape, Batch, Ops
from ossia.kernels.sizes import Formats
from ossia.kernels.triton.graphs import CudaRecorder
from ossia.model.checkpoint import LayerTensors
from ossia.model.config import ModelConfig
from ossia.model.synthetic import RandomTensors
from ossia.model.transformer import Transformer

Figures = dict[str, Any]
ELSEWHERE = 0.5  # of the spread: a row that is further off was given to another expert


class Clock:
    """Seconds on the card, by its own clock where only kernels count; on a host without one, plain seconds."""

    def __init__(self) -> None:
        self.is_card = torch.cuda.is_available()
        self.device = "cuda" if self.is_card else "cpu"

    def settle(self) -> None:
        if self.is_card:
            torch.cuda.synchronize()

    def wall(self, work: Callable[[], object], repeat: int, warm_up: int) -> float:
        """Seconds of one call, host included, over `repeat` calls one after the other."""
        for _ in range(warm_up):
            work()
        self.settle()
        started = time.perf_counter()
        for _ in range(repeat):
            work()
        self.settle()
        return (time.perf_counter() - started) / repeat

    def replayed(self, work: Callable[[], None], repeat: int = 7) -> float:
        """Seconds of the kernels alone: recorded as a graph, so that no launch is waited for."""
        if not self.is_card:
            return self.wall(work, 1, 0)
        from ossia.kernels.triton.tools.probe import median_seconds

        return median_seconds(CudaRecorder()(work).replay, repeat)

    def peak_bytes(self) -> int:
        """The most that was taken of the card since the last time this was asked."""
        if not self.is_card:
            return 0
        peak = torch.cuda.max_memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        return peak


class Sequences:
    """Sequences in a cache of their own, filled with random keys and values: what lies there does not change the work."""

    def __init__(
        self, model: Transformer, count: int, length: int, clock: Clock, chunk: int = GPU_BATCHED_TOKENS
    ) -> None:
        config = model.config
        if length > config.max_context:
            length = config.max_context
        self._model, self._chunk, self._count, self.length = model, chunk, count, length
        whole = blocks_for(length)
        reach = blocks_for(max(config.windows) + min(chunk, length)) + 1
        ring = min(whole, reach if count == 1 else blocks_for(max(config.windows)) + 2)
        block, free = model.cache_bytes, model.ops.free_bytes()
        needed = count * (whole * block.full + ring * block.window)
        if free is not None and needed > free:
            raise ValueError(f"does not fit: {needed / 2**30:.1f} GiB of keys and values, {free / 2**30:.1f} free")
        number = np.arange(count)[:, None]
        self._blocks_SB = (number * whole + np.arange(whole)).astype(np.int32)
        self._windows_SB = (number * ring + np.arange(whole) % ring).astype(np.int32)
        self.cache = model.cache(count * whole, count * ring)
        for layer in self.cache:
            scatter(layer)
        self._tokens = np.random.default_rng(0).integers(0, config.vocab, (count, 64), dtype=np.int32)

    def decode(self, position: int) -> Any:
        """Logits of one token more in each sequence, behind `position` others; at the context's end the last is made again."""
        return self._model.forward(self.row(min(position, self.length - 1)), self.cache)

    def row(self, position: int) -> Batch:
        every = np.arange(self._count + 1, dtype=np.int32)
        used = blocks_for(position + 1)
        return Batch(
            self._tokens[:, position % 64], np.full(self._count, position, np.int32), every,
            self._blocks_SB[:, :used], self._windows_SB[:, :used], every[:-1],
        )  # fmt: skip

    def prompt(self, tokens: int) -> None:
        """The first sequence's tokens in chunks; its last row's logits."""
        for start in range(0, tokens, self._chunk):
            end = min(tokens, start + self._chunk)
            rows = np.arange(start, end, dtype=np.int32)
            used, last = blocks_for(end), [len(rows) - 1] if end == tokens else []
            batch = Batch(
                self._tokens[0, rows % 64], rows, np.array([0, len(rows)], np.int32), self._blocks_SB[:1, :used],
                self._windows_SB[:1, :used], np.array(last, np.int32),
            )  # fmt: skip
            logits = self._model.forward(batch, self.cache)
        self._model.ops.wait(logits)


def scatter(layer: Any) -> None:
    """Random numbers into every tensor of a layer's cache."""
    for tensor in (each for each in layer if isinstance(each, Tensor)):
        if tensor.dtype.is_floating_point and tensor.element_size() > 1:
            tensor.normal_()
        else:
            tensor.view(torch.uint8).random_(0, 0x70)  # fp8 below its NaN


def whole(tokens: NDArray[np.int32]) -> Batch:
    """One sequence from its start, without a cache, every row sampled."""
    return Batch.whole([tokens.tolist()])


def divergence(ours: NDArray[np.float64], truth: NDArray[np.float64]) -> Figures:
    """KL of next-token distributions in nats, the likeliest token, and the largest difference by the logits' spread."""
    logs = [each - each.max(1, keepdims=True) for each in (ours, truth)]
    ours_log, true_log = (each - np.log(np.exp(each).sum(1, keepdims=True)) for each in logs)
    kl = (np.exp(true_log) * (true_log - ours_log)).sum(1)
    return {
        "mean_kl": float(kl.mean()), "worst_kl": float(kl.max()),
        "same_likeliest": float((ours.argmax(1) == truth.argmax(1)).mean()),
        "worst_by_spread": float(np.abs(ours - truth).max() / truth.std()),
    }  # fmt: skip


class _Pair(NamedTuple):
    """One layer in both op sets, and both op sets' names for the same rows."""

    config: ModelConfig
    ours: Ops
    truth: Ops
    tensors: LayerTensors
    device: str

    def both(self, make: Callable[[Ops], Any]) -> tuple[Any, Any]:
        return make(self.ops_of(0)), make(self.ops_of(1))

    def ops_of(self, index: int) -> Ops:
        return (self.ours, self.truth)[index]


def compare_ops(config: ModelConfig, ours: Ops, truth: Ops, device: str, counts: list[int]) -> Iterator[Figures]:
    """The largest difference of each op's result by the spread of the reference's, for several numbers of rows."""
    tensors = RandomTensors(config, 0)
    pair = _Pair(config, ours, truth, tensors.layer(0), device)
    for op in (_compare_linear, _compare_experts, _compare_attention):
        yield from op(pair, counts)
        gc.collect()


def _compare_linear(pair: _Pair, counts: list[int]) -> Iterator[Figures]:
    t, c = pair.tensors, pair.config
    norm = pair.both(lambda o: o.vector(t.attn_norm))
    qkv, out = (
        pair.both(lambda o: o.linear(t.qkv_weight, t.qkv_bias)),
        pair.both(lambda o: o.linear(t.out_weight, t.out_bias)),
    )
    for count in counts:
        x, heads = _rows(count, c.hidden, pair.device), _rows(count, c.heads * c.head_dim, pair.device).bfloat16()
        made = [pair.ops_of(i).norm_linear(x, norm[i], c.norm_eps, qkv[i]) for i in range(2)]
        yield _difference("norm_linear", count, *made)
        given = (heads, heads.float())
        yield _difference(
            "linear_add", count, *(pair.ops_of(i).linear_add(given[i], out[i], x.clone()) for i in range(2))
        )


def _compare_experts(pair: _Pair, counts: list[int]) -> Iterator[Figures]:
    t, c = pair.tensors, pair.config
    norm, router = (
        pair.both(lambda o: o.vector(t.mlp_norm)),
        pair.both(lambda o: o.router(t.router_weight, t.router_bias)),
    )
    up = pair.both(lambda o: o.experts(t.up_weight, t.up_bias, gated=True))
    down = pair.both(lambda o: o.experts(t.down_weight, t.down_bias, gated=False))
    for count in counts:
        x, added = _rows(count, c.hidden, pair.device), []
        for i in range(2):
            routing = pair.ops_of(i).route(x, norm[i], c.norm_eps, router[i], c.experts_per_token)
            added.append(pair.ops_of(i).experts_add(routing, up[i], down[i], c.swiglu_limit, x.clone()) - x)
        # a row whose last expert is a near tie may choose another one: told apart from rows that are off a little
        worst_T = (added[0] - added[1]).abs().amax(1) / added[1].std()
        alike_T = worst_T[worst_T < ELSEWHERE]
        yield {
            "op": "route, experts_add", "rows": count, "worst_by_spread": float(alike_T.max()) if len(alike_T) else math.inf,
            "rows_elsewhere": count - len(alike_T),
        }  # fmt: skip


def _compare_attention(pair: _Pair, counts: list[int]) -> Iterator[Figures]:
    """A ragged prompt through a paged cache, then a row more of each sequence."""
    c = pair.config
    width = (c.heads + 2 * c.kv_heads) * c.head_dim
    for shape in c.shapes:
        attention = pair.both(lambda o, shape=shape: o.attention(shape, pair.tensors.sinks))
        for count in counts:
            lengths = [count, max(1, count // 3), 1]
            total = [blocks_for(length + 1) for length in lengths]
            caches = pair.both(lambda o, shape=shape, total=total: o.cache([shape], sum(total), sum(total))[0])
            for batch, step in ((_ragged(lengths, 0, total), "prompt"), (_ragged([1] * 3, lengths, total), "decode")):
                qkv = _rows(len(batch.tokens_T), width, pair.device).bfloat16()
                given = (qkv, qkv.float())
                made = [_attended(pair.ops_of(i), given[i], attention[i], caches[i], batch, shape) for i in range(2)]
                yield _difference(f"attend, {step}, window {shape.window}", len(batch.tokens_T), *made)


def _attended(op_set: Ops, qkv: Tensor, attention: Any, cache: Any, batch: Batch, shape: AttentionShape) -> Tensor:
    return op_set.run(lambda held: op_set.attend(qkv.clone(), attention, cache, held), batch, [cache], shape)


def _ragged(lengths: list[int], firsts: int | list[int], blocks: list[int]) -> Batch:
    starts = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    begin = [firsts] * len(lengths) if isinstance(firsts, int) else firsts
    positions = np.concatenate([np.arange(first, first + n) for first, n in zip(begin, lengths)]).astype(np.int32)
    table_SB = np.zeros((len(lengths), max(blocks)), np.int32)
    for s, count in enumerate(blocks):
        table_SB[s, :count] = sum(blocks[:s]) + np.arange(count)
    rows = np.arange(len(positions), dtype=np.int32)
    return Batch(rows * 0, positions, starts, table_SB, table_SB, rows)


def _rows(count: int, width: int, device: str) -> Tensor:
    """Float32 rows that bfloat16 holds."""
    return (
        torch.randn(count, width, generator=torch.Generator(device).manual_seed(count), device=device)
        .bfloat16()
        .float()
    )


def _difference(op: str, count: int, ours: Tensor, truth: Tensor) -> Figures:
    return {
        "op": op,
        "rows": count,
        "worst_by_spread": float((ours.float() - truth.float()).abs().max() / truth.float().std()),
    }


class Loop(NamedTuple):
    """An op over all layers: its name, the work, the bytes it has to move at least, its multiply-accumulates."""

    name: str
    work: Callable[[], None]
    bytes: float
    macs: float


def op_loops(model: Transformer, batch: int, context: int, formats: Formats, clock: Clock) -> Iterator[Loop]:
    """Every op of a decoding step, over each layer's own weights, so that no cache holds them from one call to the next."""
    c, o, layers = model.config, model.ops, model.weights.layers
    x, wide = _rows(batch, c.hidden, clock.device), c.heads * c.head_dim
    qkv = _rows(batch, wide + 2 * c.kv_heads * c.head_dim, clock.device).bfloat16()
    heads = _rows(batch, wide, clock.device).bfloat16()
    dense, expert = formats.dense_bits / 8, formats.expert_bits / 8
    n, k, residual = c.layers, c.experts_per_token, x.clone()

    def loop(name: str, one: Callable[[Any], object], weights: float, moved: float, bits: float) -> Loop:
        """weights: multiplied with each row, in one layer. moved: how many of them are read."""

        def work() -> None:
            for layer in layers:
                one(layer)

        return Loop(name, work, n * moved * bits, n * weights * batch)

    rows_qkv = qkv.shape[1] * c.hidden
    yield loop(
        "norm_linear", lambda each: o.norm_linear(x, each.attn_norm, c.norm_eps, each.qkv), rows_qkv, rows_qkv, dense
    )
    yield loop(
        "linear_add", lambda each: o.linear_add(heads, each.out, residual), wide * c.hidden, wide * c.hidden, dense
    )
    routed = c.hidden * c.experts
    yield loop("route", lambda each: o.route(x, each.mlp_norm, c.norm_eps, each.router, k), routed, routed, 2.0)
    routings = {id(each): o.route(x, each.mlp_norm, c.norm_eps, each.router, k) for each in layers}
    one_expert = 3 * c.hidden * c.intermediate
    yield loop(
        "experts_add", lambda each: o.experts_add(routings[id(each)], each.up, each.down, c.swiglu_limit, residual),
        k * one_expert, expected_experts(c, batch) * one_expert, expert,
    )  # fmt: skip
    yield from _attention_loops(model, qkv, batch, context, formats, clock)
    table = float(c.vocab * c.hidden)
    rows = torch.arange(batch, dtype=torch.int32, device=clock.device)

    def unembed() -> None:
        o.unembed(x, rows, model.weights.norm, c.norm_eps, model.weights.unembedding)

    yield Loop("unembed", unembed, table * dense, table * batch)


def _attention_loops(
    model: Transformer, qkv: Tensor, batch: int, context: int, formats: Formats, clock: Clock
) -> Iterator[Loop]:
    c, o = model.config, model.ops
    sequences = Sequences(model, batch, context + 1, clock)
    kept: list[Any] = []

    def keep(held: Any) -> Tensor:
        kept.append(held)
        return qkv

    o.run(keep, sequences.row(context), [*sequences.cache], c.shapes[0])
    for window in sorted({*c.windows}):
        pairs = [
            (layer, cache)
            for layer, cache, own in zip(model.weights.layers, sequences.cache, c.windows)
            if own == window
        ]
        seen = min(context + 1, window or context + 1)
        moved = len(pairs) * batch * seen * 2 * c.kv_heads * formats.head_bytes(c.head_dim, window)
        macs = len(pairs) * batch * seen * 2.0 * c.heads * c.head_dim

        def work(pairs: list[tuple[Any, Any]] = pairs) -> None:
            for layer, cache in pairs:
                o.attend(qkv, layer.attention, cache, kept[0])

        yield Loop(f"attend, {'window ' + str(window) if window else f'{context} keys'}", work, float(moved), macs)


def cache_for(model: Transformer, tokens: int) -> int:
    """Bytes of a cache for so many tokens, sliding layers as roomy as any."""
    c = model.config
    return PagedCache.cost(model.cache_bytes, c.window, 2 * tokens + 4 * BLOCK, GPU_BATCHED_TOKENS)


def tuned(
    model: Transformer, batch: int, context: int, formats: Formats, clock: Clock, check_time: Callable[[], None]
) -> Iterator[Figures]:
    """For each table of tiles that is used: its entry for this many rows with one number halved or doubled at a time."""
    loops = [*op_loops(model, batch, context, formats, clock)]
    for module in tile_modules():
        usual = module.tiles
        for loop in loops:
            used: list[tuple[Any, ...]] = []
            module.tiles = lambda *given, usual=usual, used=used: used.append((given, usual(*given))) or used[-1][1]
            try:
                base = clock.replayed(loop.work)
                for given, tiles in dict.fromkeys(used):
                    for trial in neighbours(tiles, module.__name__.endswith("moe")):
                        check_time()
                        module.tiles = lambda *asked, g=given, t=trial, usual=usual: t if asked == g else usual(*asked)
                        seconds = _tried(loop.work, clock)
                        yield {
                            "op": loop.name, "table": module.__name__, "asked": given, "tiles": tuple(trial), "us": seconds * 1e6,
                            "usual_us": base * 1e6, "faster": base / seconds,
                        }  # fmt: skip
            finally:
                module.tiles = usual


def tile_modules() -> list[Any]:
    """The kernel files that have a table of tiles."""
    from ossia.kernels.triton.kernels import attention, linear, moe

    return [module for module in (linear, moe, attention) if hasattr(module, "tiles")]


def neighbours(tiles: Any, is_moe: bool) -> Iterator[Any]:
    """One number halved or doubled. Rows come in groups of 16; an expert's tile has the pairs that the router gives it."""
    for name, value in tiles._asdict().items():
        for other in (value // 2, value * 2):
            if other >= (16 if name == "rows" else 1) and not (is_moe and name == "tokens"):
                yield tiles._replace(**{name: other})


def _tried(work: Callable[[], None], clock: Clock) -> float:
    try:
        return clock.replayed(work)
    except Exception:  # what does not compile, or fit, is only slower than anything
        return math.inf


def peer(config: ModelConfig, clock: Clock) -> Iterator[Figures]:
    """Prompt and decode at batch 1 and 16 with random bfloat16 weights, made on the card."""
    import transformers

    dtype, raw = torch.get_default_dtype(), config.to_json("hf", quantized=False)
    settings = transformers.GptOssConfig(**{key: value for key, value in raw.items() if key != "architectures"})
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device(clock.device):
            network = transformers.GptOssForCausalLM(settings).eval()
    finally:
        torch.set_default_dtype(dtype)
    version = f"transformers {transformers.__version__}, experts {type(network.model.layers[0].mlp.experts).__name__}, bfloat16"
    ids = cycle([torch.randint(0, config.vocab, (16, 4096 if clock.is_card else 16), device=clock.device)])
    with torch.no_grad():
        for rows, prompt in ((1, 512), (1, 4096), (16, 512)):
            given = next(ids)[:rows, :prompt]
            took: list[float] = []
            for _ in range(2):
                clock.settle()
                started = time.perf_counter()
                answer = network(given, use_cache=True, logits_to_keep=1)
                clock.settle()
                took.append(time.perf_counter() - started)
            past, token, steps = answer.past_key_values, given[:, -1:], []
            for _ in range(20):
                started = time.perf_counter()
                answer = network(token, past_key_values=past, use_cache=True)
                token = answer.logits[:, -1:].argmax(-1)
                clock.settle()
                steps.append(time.perf_counter() - started)
            yield {
                "peer": version, "rows": rows, "prompt": prompt, "prompt_tokens_per_second": given.numel() / min(took),
                "decode_tokens_per_second": rows / statistics.median(steps), "peak_bytes": clock.peak_bytes(),
            }  # fmt: skip
