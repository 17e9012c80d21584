"""Whether a model fits the machine's memory, decided before anything is read: weights, work space, keys and values.

In: a config, the types of its weights and cache, the free bytes. Out: `MemoryNeeds`, or an error with the numbers and what
would fit. `engine/plan.py` plans a GPU's memory.

Packed weights are private memory. Weights used directly from a mapped file count as much, because every token reads
all of them, and from disk if they do not fit. The embedding does not count: a token reads one row.
"""

from typing import NamedTuple

from ossia.kernels.machine import available_memory, is_memory_limited
from ossia.kernels.ops import Backend, Dense, KeyValues
from ossia.model.config import ModelConfig

MIN_CONTEXT = 4096  # tokens; a model with less is of little use
MIN_CACHE_BYTES = 64 << 20  # of keys and values, however little memory is free
CPU_BATCHED_TOKENS = 512  # default rows of a step on the CPU
BITS: dict[Dense, float] = {"int8": 8.25, "int4": 4.5, "bf16": 16.0}  # with a bfloat16 scale per 64 or 32 weights
MXFP4_BITS = 4.25  # with an 8-bit scale per 32 weights
_F32 = 32.0
_FIXED = 256 << 20  # bytes of the interpreter, the compiled kernels and the compiler
_TOKEN_BYTES = 1024  # bytes of the tokenizer and its masks, per token of the vocabulary
_LOGITS = 16  # rows of logits in memory at a time
_GIB = 1 << 30


class MemoryNeeds(NamedTuple):
    """Bytes by purpose. loading: needed while weights are packed, before the cache is allocated."""

    experts: int
    others: int
    loading: int
    workspace: int
    cache: int

    @property
    def total(self) -> int:
        return self.experts + self.others + self.workspace + max(self.loading, self.cache)

    def __str__(self) -> str:
        parts = [("experts", self.experts), ("other weights", self.others), ("work space", self.workspace)]
        parts.append(("packing", self.loading) if self.loading > self.cache else ("keys and values", self.cache))
        return f"{self.total / _GIB:.1f} GiB ({', '.join(f'{name} {size / _GIB:.1f}' for name, size in parts)})"


class HostFormat(NamedTuple):
    """The types of a model in memory. mxfp4: whether its experts are MXFP4. loading: as in `MemoryNeeds`."""

    backend: Backend = "cpu"
    dense: Dense = "int8"
    kv: KeyValues = "bf16"
    mxfp4: bool = True
    loading: int = 0


def memory_needs(config: ModelConfig, held: HostFormat, cache: int) -> MemoryNeeds:
    """What a model needs with `cache` bytes of keys and values."""
    c = config
    is_reference = held.backend == "reference"
    dense_bits = _F32 if is_reference else BITS[held.dense]
    expert_bits = _F32 if is_reference else MXFP4_BITS if held.mxfp4 else 16.0
    rows = (c.heads + 2 * c.kv_heads) * c.head_dim
    attention = c.layers * c.hidden * (rows + c.heads * c.head_dim)
    experts = c.layers * c.experts * 3 * c.hidden * c.intermediate
    others = (attention + c.vocab * c.hidden) * dense_bits / 8 + c.layers * c.experts * c.hidden * 2
    others += c.layers * c.experts * (2 * c.intermediate + c.hidden) * 4  # biases
    others += c.vocab * c.hidden * 4 if is_reference else 0  # the embedding, copied from its file
    return MemoryNeeds(int(experts * expert_bits / 8), int(others), held.loading, workspace_bytes(c), cache)


def workspace_bytes(c: ModelConfig) -> int:
    """Bytes of a step's activations, logits, the tokenizer, the compiler and the interpreter."""
    row = 6 * c.hidden + (2 * c.heads + 2 * c.kv_heads) * c.head_dim
    row += c.experts_per_token * (3 * c.intermediate + c.hidden)
    return _FIXED + CPU_BATCHED_TOKENS * row * 4 + c.vocab * (_TOKEN_BYTES + _LOGITS * 4)


def check_host(
    config: ModelConfig, held: HostFormat, cache: int, free: int | None = None, less: str = ""
) -> MemoryNeeds:
    """What the model needs. Raises ValueError, with the numbers and what would fit, if that exceeds `free`.

    free: usable bytes; default: the free memory of the machine and its container. less: an option that lowers the
    need, such as "--kv-cache-gb", for the message.
    """
    wanted = memory_needs(config, held, cache)
    limit = available_memory() if free is None else free
    if wanted.total > limit:
        where = " in this container" if free is None and is_memory_limited() else ""
        raise ValueError(
            f"this model does not fit the memory: it needs {wanted} and {limit / _GIB:.1f} GiB are free{where}: "
            f"{_remedy(config, held, cache, limit, less)}"
        )
    return wanted


def host_cache_room(config: ModelConfig) -> int:
    """Bytes for keys and values in the free memory, once the weights are loaded."""
    return max(0, available_memory() - workspace_bytes(config))


def _remedy(config: ModelConfig, held: HostFormat, cache: int, limit: int, less: str) -> str:
    def total(changed: HostFormat, keys_and_values: int = cache) -> int:
        return memory_needs(config, changed, keys_and_values).total

    ways: list[str] = []
    if held.backend == "reference":
        held = held._replace(backend="cpu", dense="int8")
        if total(held) <= limit:
            return f"--backend cpu fits ({total(held) / _GIB:.1f} GiB)"
    if less and total(held, 0) < limit:
        ways.append(f"{less} fits up to {(limit - total(held, 0)) / _GIB:.1f} GiB of keys and values")
    small = held._replace(dense="int4")
    if held.dense != "int4" and total(small) <= limit:
        ways.append(f"--dense int4 fits ({total(small) / _GIB:.1f} GiB)")
    if not held.mxfp4 and total(small._replace(mxfp4=True)) <= limit:
        ways.append("a checkpoint whose experts are MXFP4, as published, fits")
    if not ways:
        ways.append(
            f"no setting fits (the least is {total(small) / _GIB:.1f} GiB): take a smaller model or free memory"
        )
    return "; ".join([*ways, "--memory-gb overrides this limit"])
