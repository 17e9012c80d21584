"""Plans a GPU's memory before anything is loaded: weights, work space, a reserve, keys and values.

In: a config, the types of its weights and cache, the GPU's free bytes. Out: a `CardMemoryPlan`, or an error with the
numbers. Keys and values get the rest, which determines the context.
"""

from dataclasses import dataclass

from ossia.engine.cache import PagedCache
from ossia.engine.host_plan import CPU_BATCHED_TOKENS, MIN_CONTEXT
from ossia.kernels.ops import CacheBytes, Dense, KeyValues, Ops
from ossia.kernels.sizes import MAX_GRAPH_ROWS, cache_bytes
from ossia.model.config import ModelConfig
from ossia.model.memory import card_weight_bytes, card_workspace_bytes, largest_tensor_bytes

GPU_BATCHED_TOKENS = 2048  # default rows of a step on a GPU: fewer do not use all of its arithmetic
# compiled kernels, graphs, the allocator's rounding; the driver's own memory is never free
RESERVE = 384 << 20
_GIB = 1 << 30


@dataclass(frozen=True, slots=True)
class CardMemoryPlan:
    """Bytes of a GPU's memory by purpose, and the maximum context of one sequence."""

    free: int
    weights: int
    workspace: int
    reserve: int
    block: CacheBytes
    whole: int  # bytes of one sequence with the model's whole context
    context: int
    max_context: int

    @property
    def cache(self) -> int:
        """Bytes for keys and values."""
        return self.free - self.weights - self.workspace - self.reserve

    def line(self) -> str:
        """One line for the user when a model is loaded."""
        part = "" if self.context == self.max_context else f" of {self.max_context:,}"
        times = f"; {self.cache / self.whole:.1f} such sequences" if self.cache > self.whole else ""
        return (
            f"{_gib(self.free)} GiB free on the card: weights {_gib(self.weights)}, work space {_gib(self.workspace)}, reserve "
            f"{_gib(self.reserve)}, keys and values {_gib(self.cache)}: context {self.context:,}{part}{times}"
        )


def plan_card(
    config: ModelConfig,
    dense: Dense,
    kv: KeyValues,
    free: int,
    *,
    mxfp4: bool = True,
    max_batched_tokens: int = GPU_BATCHED_TOKENS,
) -> CardMemoryPlan:
    """The plan. Raises ValueError, with the numbers and remedies, if weights and a short context do not fit."""
    weights, work = card_weight_bytes(config, dense, mxfp4), card_workspace_bytes(config, max_batched_tokens)
    block = cache_bytes(config.shapes, kv)
    whole = _cost(config, block, config.max_context, max_batched_tokens)
    least = _cost(config, block, min(MIN_CONTEXT, config.max_context), max_batched_tokens)
    left = free - weights - work - RESERVE
    loading = weights + largest_tensor_bytes(config, mxfp4) + RESERVE  # the last tensor may be in memory twice
    if left < least or loading > free:
        need = max(weights + work + RESERVE + least, loading)
        raise ValueError(
            f"this model does not fit the card: it needs {_gib(need)} GiB (weights {_gib(weights)}, work space "
            f"{_gib(work)}, reserve {_gib(RESERVE)}, {_gib(least)} for a context of "
            f"{min(MIN_CONTEXT, config.max_context):,}) and {_gib(free)} are free: {_remedy(dense, kv, mxfp4)}"
        )
    context = config.max_context if left >= whole else _sized(config, block, max_batched_tokens, left).tokens
    return CardMemoryPlan(
        free, weights, work, RESERVE, block, whole, min(context, config.max_context), config.max_context
    )


def card_cache_room(config: ModelConfig, free: int | None, max_batched_tokens: int = GPU_BATCHED_TOKENS) -> int | None:
    """Bytes for keys and values in the free memory, once the weights are loaded; None without a limit."""
    return None if free is None else max(0, free - card_workspace_bytes(config, max_batched_tokens) - RESERVE)


def default_max_batched_tokens(ops: Ops) -> int:
    """Default rows of a step on this backend."""
    return CPU_BATCHED_TOKENS if ops.free_bytes() is None else GPU_BATCHED_TOKENS


def max_num_seqs(ops: Ops) -> int | None:
    """The maximum number of running requests: a GPU has memory planned for this many rows of logits; None without a
    limit.
    """
    return None if ops.free_bytes() is None else MAX_GRAPH_ROWS


def _sized(c: ModelConfig, block: CacheBytes, max_batched_tokens: int, size: int) -> PagedCache:
    return PagedCache.sized(block, c.window, c.max_context, max_batched_tokens, size, 0)


def _cost(c: ModelConfig, block: CacheBytes, tokens: int, max_batched_tokens: int) -> int:
    """The minimum bytes of a cache for one sequence of this many tokens."""
    return PagedCache.cost(block, c.window, tokens, max_batched_tokens)


def _remedy(dense: Dense, kv: KeyValues, mxfp4: bool) -> str:
    ways = []
    if not mxfp4:
        ways.append("a checkpoint whose experts are MXFP4, as published, takes a quarter of it")
    if dense == "bf16":
        ways.append("--dense int8 halves the weights outside the experts")
    if kv == "bf16":
        ways.append("--kv fp8 halves keys and values")
    return "; ".join([*ways, "or take a smaller model, a larger card, or --backend cpu"])


def _gib(count: float) -> str:
    return f"{count / _GIB:.1f}"
