"""What a card's memory goes to, decided before anything is loaded: weights, work space, a reserve, keys and values.

In: a config, the kinds that its weights and cache are held in, the card's free bytes. Out: a `CardMemoryPlan`, or a refusal with
the numbers. It does not know devices: who asks has read the free bytes.

Keys and values come last: they get what the others leave, and the context follows from it.
"""

from dataclasses import dataclass

from ossia.engine.cache import PagedCache
from ossia.engine.host_plan import HOST_STEP, LEAST_CONTEXT
from ossia.kernels.card_memory import BF16, F32, MOST_ROWS, cache_bytes, dense_bytes, expert_bytes
from ossia.kernels.ops import CacheBytes, Dense, KeyValues, Ops
from ossia.model.config import ModelConfig

CARD_STEP = 2048  # rows of a step unless told: on a card fewer leave its arithmetic idle
RESERVE = (
    384 << 20
)  # compiled kernels, graphs, what the allocator rounds up; the driver's own is not free to begin with
_PARTIALS = 64 << 20  # attention's partial sums, a step's lists of work
_GIB = 1 << 30


@dataclass(frozen=True, slots=True)
class CardMemoryPlan:
    """Bytes of a card, and the tokens that one sequence can have in what is left of them."""

    free: int
    weights: int
    workspace: int
    reserve: int
    block: CacheBytes
    whole: int  # keys and values of one sequence of the model's whole context
    context: int
    max_context: int

    @property
    def cache(self) -> int:
        """What keys and values may take."""
        return self.free - self.weights - self.workspace - self.reserve

    def line(self) -> str:
        """For a person, when a model is loaded."""
        part = "" if self.context == self.max_context else f" of {self.max_context:,}"
        times = f"; {self.cache / self.whole:.1f} such sequences" if self.cache > self.whole else ""
        return (
            f"{_gib(self.free)} GiB free on the card: weights {_gib(self.weights)}, work space {_gib(self.workspace)}, reserve "
            f"{_gib(self.reserve)}, keys and values {_gib(self.cache)}: context {self.context:,}{part}{times}"
        )


def plan_card(
    config: ModelConfig, dense: Dense, kv: KeyValues, free: int, *, mxfp4: bool = True, step_tokens: int = CARD_STEP
) -> CardMemoryPlan:
    """ValueError, with the numbers and what would help, where weights and a short context do not fit."""
    weights, work = weight_bytes(config, dense, mxfp4), work_bytes(config, step_tokens)
    block = cache_bytes(config.shapes, kv)
    whole = _cost(config, block, config.max_context, step_tokens)
    least = _cost(config, block, min(LEAST_CONTEXT, config.max_context), step_tokens)
    left = free - weights - work - RESERVE
    loading = weights + largest_bytes(config, dense, mxfp4) + RESERVE  # the last tensor may be there twice
    if left < least or loading > free:
        need = max(weights + work + RESERVE + least, loading)
        raise ValueError(
            f"this model does not fit the card: it needs {_gib(need)} GiB (weights {_gib(weights)}, work space "
            f"{_gib(work)}, reserve {_gib(RESERVE)}, {_gib(least)} for a context of "
            f"{min(LEAST_CONTEXT, config.max_context):,}) and {_gib(free)} are free: {_remedy(dense, kv, mxfp4)}"
        )
    context = config.max_context if left >= whole else _sized(config, block, step_tokens, left).tokens
    return CardMemoryPlan(
        free, weights, work, RESERVE, block, whole, min(context, config.max_context), config.max_context
    )


def room_for_cache(config: ModelConfig, free: int | None, step_tokens: int = CARD_STEP) -> int | None:
    """What keys and values may take of memory that is free beside loaded weights; None where nothing limits them."""
    return None if free is None else max(0, free - work_bytes(config, step_tokens) - RESERVE)


def usual_step(ops: Ops) -> int:
    """Rows of a step for this backend."""
    return HOST_STEP if ops.free_bytes() is None else CARD_STEP


def most_running(ops: Ops) -> int | None:
    """Requests that may run at a time: logits take memory, which on a card was planned; elsewhere as many as the cache holds."""
    return None if ops.free_bytes() is None else MOST_ROWS


def weight_bytes(c: ModelConfig, dense: Dense, mxfp4: bool = True) -> int:
    """All weights as the GPU backend holds them; the embedding's rows stay bfloat16, the router and norms too or wider."""
    layer = dense_bytes(_qkv_rows(c), c.hidden, dense) + dense_bytes(c.hidden, c.heads * c.head_dim, dense)
    layer += F32 * (_qkv_rows(c) + c.hidden + c.heads + 2 * c.hidden)  # biases, sinks, norms
    layer += c.experts * (c.hidden + 1) * F32  # the router, were it float32
    layer += expert_bytes(c.experts, 2 * c.intermediate, c.hidden, mxfp4)
    layer += expert_bytes(c.experts, c.hidden, c.intermediate, mxfp4)
    return c.layers * layer + dense_bytes(c.vocab, c.hidden, dense) + c.vocab * c.hidden * BF16 + c.hidden * F32


def largest_bytes(c: ModelConfig, dense: Dense, mxfp4: bool = True) -> int:
    """The largest tensor on its way: one table, or the experts' way up."""
    return max(c.vocab * c.hidden * BF16, expert_bytes(c.experts, 2 * c.intermediate, c.hidden, mxfp4))


def work_bytes(c: ModelConfig, step_tokens: int = CARD_STEP) -> int:
    """Activations of a step, attention's partial sums, logits of as many rows as can be sampled at once."""
    row = c.hidden * (F32 + 2 * BF16) + (_qkv_rows(c) + c.heads * c.head_dim) * BF16
    row += c.experts_per_token * (c.intermediate * BF16 + c.hidden * F32)
    logits = 3 * MOST_ROWS * c.vocab * F32  # of a graph, as it leaves them for whoever asks, and of a step without one
    return step_tokens * row + logits + _PARTIALS


def _qkv_rows(c: ModelConfig) -> int:
    return (c.heads + 2 * c.kv_heads) * c.head_dim


def _sized(c: ModelConfig, block: CacheBytes, step_tokens: int, size: int) -> PagedCache:
    return PagedCache.sized(block, c.window, c.max_context, step_tokens, size, 0)


def _cost(c: ModelConfig, block: CacheBytes, tokens: int, step_tokens: int) -> int:
    """The least that a cache for one sequence of so many tokens takes."""
    return PagedCache.cost(block, c.window, tokens, step_tokens)


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
