"""Whether a model fits the machine's memory, decided before anything is read: weights, work space, keys and values.

In: a config, the kinds that its weights and cache are held in, the free bytes. Out: `Needs`, or a refusal with the numbers
and what would fit. A card's memory is planned by `engine/plan.py`.

Packed weights are private memory. Weights that are used as they lie in their mapped file count as much: every token reads
them all, and a file that does not stay in memory is read from disk for each. The embedding does not count: a token reads
one row of it.
"""

from typing import NamedTuple

from ossia.kernels.machine import available_memory, is_memory_limited
from ossia.kernels.ops import Backend, Dense, KeyValues
from ossia.model.config import ModelConfig

LEAST_CONTEXT = 4096  # with less than this a model is of little use
LEAST_CACHE = 64 << 20  # keys and values that an engine has however little memory is free
HOST_STEP = 512  # rows of a step
BITS: dict[Dense, float] = {"int8": 8.25, "int4": 4.5, "bf16": 16.0}  # a bfloat16 scale to 64 or 32 weights
MXFP4_BITS = 4.25  # an eight-bit scale to 32 weights
_F32 = 32.0
_FIXED = 256 << 20  # the interpreter, compiled kernels and the compiler
_TOKEN_BYTES = 1024  # of the tokenizer and its masks, for each token of the vocabulary
_LOGITS = 16  # rows of logits that are held at a time
_GIB = 1 << 30


class Needs(NamedTuple):
    """Bytes by purpose. `loading`: held while weights are packed, before there are keys and values."""

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
    """What a model is held in. `mxfp4`: its experts are. `loading` as in `Needs`."""

    backend: Backend = "cpu"
    dense: Dense = "int8"
    kv: KeyValues = "bf16"
    mxfp4: bool = True
    loading: int = 0


def needs(config: ModelConfig, held: HostFormat, cache: int) -> Needs:
    """What a model takes with `cache` bytes of keys and values."""
    c = config
    is_reference = held.backend == "reference"
    dense_bits = _F32 if is_reference else BITS[held.dense]
    expert_bits = _F32 if is_reference else MXFP4_BITS if held.mxfp4 else 16.0
    rows = (c.heads + 2 * c.kv_heads) * c.head_dim
    attention = c.layers * c.hidden * (rows + c.heads * c.head_dim)
    experts = c.layers * c.experts * 3 * c.hidden * c.intermediate
    others = (attention + c.vocab * c.hidden) * dense_bits / 8 + c.layers * c.experts * c.hidden * 2
    others += c.layers * c.experts * (2 * c.intermediate + c.hidden) * 4  # biases
    others += c.vocab * c.hidden * 4 if is_reference else 0  # the embedding, no longer in its file
    return Needs(int(experts * expert_bits / 8), int(others), held.loading, workspace_bytes(c), cache)


def workspace_bytes(c: ModelConfig) -> int:
    """Activations of a step, logits, the tokenizer, the compiler, the interpreter."""
    row = 6 * c.hidden + (2 * c.heads + 2 * c.kv_heads) * c.head_dim
    row += c.experts_per_token * (3 * c.intermediate + c.hidden)
    return _FIXED + HOST_STEP * row * 4 + c.vocab * (_TOKEN_BYTES + _LOGITS * 4)


def check_host(config: ModelConfig, held: HostFormat, cache: int, free: int | None = None, less: str = "") -> Needs:
    """What the model needs. Raises ValueError, with the numbers and what would fit, where that is more than `free`.

    free: bytes that may be used; what is free on the machine and in its container unless given. less: what else a person
    can ask less of, such as "--cache-gb".
    """
    wanted = needs(config, held, cache)
    limit = available_memory() if free is None else free
    if wanted.total > limit:
        where = " in this container" if free is None and is_memory_limited() else ""
        raise ValueError(
            f"this model does not fit the memory: it needs {wanted} and {limit / _GIB:.1f} GiB are free{where}: "
            f"{_remedy(config, held, cache, limit, less)}"
        )
    return wanted


def host_room(config: ModelConfig) -> int:
    """What keys and values may take of the memory that is free beside loaded weights."""
    return max(0, available_memory() - workspace_bytes(config))


def _remedy(config: ModelConfig, held: HostFormat, cache: int, limit: int, less: str) -> str:
    def total(changed: HostFormat, keys_and_values: int = cache) -> int:
        return needs(config, changed, keys_and_values).total

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
