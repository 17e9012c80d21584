"""Whether a model fits the machine's memory, decided before anything is read: weights, work space, keys and values.

In: a config, the types of its weights and cache, the free bytes. Out: `MemoryNeeds`, or an error with the numbers and what
would fit. `engine/plan.py` plans a GPU's memory.

Packed weights are private memory. Weights used directly from a mapped file count as much, because every token reads
all of them, and from disk if they do not fit. The embedding does not count: a token reads one row.
"""

from typing import NamedTuple

from ossia.kernels.machine import available_memory, is_memory_limited
from ossia.kernels.ops import Backend, Dense, KeyValues
from ossia.kernels.sizes import formats_of
from ossia.model.config import ModelConfig
from ossia.model.memory import host_weight_bytes, host_workspace_bytes

MIN_CONTEXT = 4096  # tokens; a model with less is of little use
MIN_CACHE_BYTES = 64 << 20  # of keys and values, however little memory is free
CPU_BATCHED_TOKENS = 512  # default rows of a step on the CPU
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
    formats = formats_of(held.backend, held.dense, held.kv, held.mxfp4)
    experts, others = host_weight_bytes(config, formats, copies_embedding=held.backend == "reference")
    return MemoryNeeds(experts, others, held.loading, workspace_bytes(config), cache)


def workspace_bytes(config: ModelConfig) -> int:
    """Bytes of a step's activations, logits, the tokenizer, the compiler and the interpreter."""
    return host_workspace_bytes(config, CPU_BATCHED_TOKENS)


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
