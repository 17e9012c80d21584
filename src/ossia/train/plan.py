"""The memory of training, computed before it starts. What does not fit is refused, with what would fit.

Input: a config, a `Lora`, tokens in a batch and the device's free memory. Output: a `TrainingMemoryPlan`: bytes by
purpose; MemoryError if it does not fit. Loads nothing. Tests compare its constants with measured peaks.

The peak is the base, the adapters with gradients and moments, every block's input, and the larger of one block's
backward pass and the loss.
"""

from dataclasses import dataclass

from ossia.kernels.machine import available_memory
from ossia.model.config import ModelConfig
from ossia.model.info import model_size, readable
from ossia.model.layouts import EMBEDDING, Layout, all_stored, stored
from ossia.train.loop.distributed import local_world_size
from ossia.train.model.attention import KEPT_SCORES, MAX_SCORES, QUERIES
from ossia.train.model.chunked_loss import rows_at_a_time
from ossia.train.model.experts import SWIGLU_ELEMENTS
from ossia.train.model.weights.frozen import SMALL_WEIGHT, block_bytes
from ossia.train.model.weights.lora import chosen
from ossia.train.recipe import Lora

_TRAINED_BYTES = 16  # float32 value, gradient and AdamW's two moments
_RESIDUAL_BYTES = 4  # a number of the residual
# Peak bytes of a block's backward pass, from measurements
_PER_HIDDEN = 40  # of a row: its norms and residuals, in float32
_SCORE_BYTES, _SWIGLU_BYTES = 21, 24  # of work space, by the element
_BUSIEST = 2  # rows of the busiest expert, in units of the mean


@dataclass(frozen=True, slots=True)
class TrainingMemoryPlan:
    """Peak bytes of a step on one device. tokens: of one batch; all may be targets."""

    tokens: int
    base: int
    adapters: int
    inputs: int
    work: int

    @property
    def total(self) -> int:
        return self.base + self.adapters + self.inputs + self.work

    def __str__(self) -> str:
        parts = (
            ("frozen base", self.base), ("adapters, gradients, AdamW", self.adapters),
            (f"activations kept, {self.tokens:,} tokens", self.inputs), ("work space of a block or the loss", self.work),
            ("total", self.total),
        )  # fmt: skip
        return "\n".join(f"  {name:42} {readable(size):>12}" for name, size in parts)


def plan(
    config: ModelConfig, lora: Lora, tokens: int, *, itemsize: int = 2, layout: Layout = "hf", device: str = "cpu",
    processes: int = 1, recompute: bool = True,
) -> TrainingMemoryPlan:  # fmt: skip
    """The plan for batches of `tokens` tokens. itemsize: bytes of a number in the computation.

    recompute: blocks keep only their input, and recompute the rest in the backward pass.
    """
    c = config
    trained = sum(target.parameters(lora.rank) for target in chosen(c, lora))
    base = -(-_base_bytes(c, layout) // processes)
    if processes > 1:  # two blocks, or the unembedding, are whole at a time
        whole = _base_bytes(c, layout, layers=1) - c.vocab * c.hidden * 2
        base += 2 * whole + c.vocab * c.hidden * 2
    return TrainingMemoryPlan(
        tokens=tokens,
        base=base,
        adapters=-(-trained * _TRAINED_BYTES // processes),
        inputs=(c.layers + 1) * tokens * c.hidden * _RESIDUAL_BYTES
        + (0 if recompute else c.layers * (_block(c, tokens, itemsize) + _unpacked(c, itemsize))),
        work=max(_block(c, tokens, itemsize) + _unpacked(c, itemsize), _loss(c, tokens, itemsize))
        + block_bytes(device),
    )


def _unpacked(config: ModelConfig, itemsize: int) -> int:
    """Bytes of a block's experts that are small enough to be unpacked whole."""
    width = config.experts * config.hidden * config.intermediate
    return sum(numbers * itemsize for numbers in (2 * width, width) if numbers <= SMALL_WEIGHT)


def max_batch_tokens(config: ModelConfig, lora: Lora, free: int, **options: object) -> int:
    """The most tokens of a batch whose plan fits into `free` bytes; 0 if none fits. options: those of `plan`."""
    low, high = 0, config.max_context
    while low < high:
        middle = (low + high + 1) // 2
        fits = plan(config, lora, middle, **options).total <= free  # type: ignore[arg-type]
        low, high = (middle, high) if fits else (low, middle - 1)
    return low


def check(made: TrainingMemoryPlan, config: ModelConfig, lora: Lora, free: int, **options: object) -> None:
    """MemoryError, with the largest batch that would fit, if the plan exceeds `free`. options: those of `plan`."""
    if made.total <= free:
        return
    most = max_batch_tokens(config, lora, free, **options)
    remedy = (
        f"batches of up to {most:,} tokens would fit"
        if most
        else "no batch would fit: train fewer targets, use a lower rank, or start more processes"
    )
    raise MemoryError(
        f"fine-tuning with batches of {made.tokens:,} tokens takes {readable(made.total)} and "
        f"{readable(free)} are free: {remedy}"
    )


def check_whole(config: ModelConfig, free: int) -> str:
    """A line about the memory of training all weights. MemoryError if it is more than `free`."""
    count = model_size(config).parameters
    needed = count * _TRAINED_BYTES
    what = f"all {count:,} parameters: {readable(needed)} with gradients and moments, without activations"
    if needed > free:
        raise MemoryError(
            f"training {what}, and {readable(free)} are free: "
            "use [lora] in place of [sft] to train adapters over the checkpoint as stored"
        )
    return f"training {what}"


def check_rl(config: ModelConfig, lora: Lora, tokens: int, free: int, **options: object) -> str:
    """A line about the memory of [rl.lora]. MemoryError if it is more than `free`.

    The engine's weights are added to a step's memory: four bytes for each number of a weight with an adapter.
    """
    merged = sum(4 * max(1, target.experts) * target.inputs * target.outputs for target in chosen(config, lora))
    step = plan(config, lora, tokens, **options).total  # type: ignore[arg-type]
    what = f"{readable(step)} for a step of {tokens:,} tokens and {readable(merged)} for the engine's merged weights"
    if step + merged > free:
        raise MemoryError(
            f"[rl.lora] takes {what}, and {readable(free)} are free: use fewer targets, or lower batch_tokens"
        )
    return f"reinforcement learning with adapters takes {what}"


def free_bytes(device: str) -> int:
    """Free bytes of the device now. Processes on one machine get equal parts of its memory."""
    if device.startswith("cuda"):
        import torch

        return torch.cuda.mem_get_info(torch.device(device))[0]
    return available_memory() // local_world_size()


def _base_bytes(config: ModelConfig, layout: Layout, layers: int | None = None) -> int:
    """Bytes of all frozen tensors except the embedding, which stays in its file. layers: default the config's."""
    embedding = {part.name for part in stored(config, layout, EMBEDDING)}
    total = per_layer = 0
    for name, part in all_stored(config, layout).items():
        if name in embedding:
            continue
        size = 1 if part.form in ("blocks", "scales") else 2
        for dimension in part.shape:
            size *= dimension
        total += size
        if ".layers.0." in name or name.startswith("block.0."):
            per_layer += size
    return total if layers is None else total - (config.layers - layers) * per_layer


def _block(c: ModelConfig, tokens: int, itemsize: int) -> int:
    attended, keyed = c.heads * c.head_dim, c.kv_heads * c.head_dim
    rows = tokens * c.experts_per_token
    seen = [min(tokens, window + QUERIES) if window else tokens for window in set(c.windows)]  # of a tile's queries
    kept = min(KEPT_SCORES, c.heads * tokens * max(s if s < tokens else (s + QUERIES) // 2 for s in seen))
    held = tokens * (_PER_HIDDEN * c.hidden + itemsize * (3 * attended + 2 * keyed)) + itemsize * kept
    busiest = min(rows, _BUSIEST * rows // c.experts)
    experts = itemsize * rows * (4 * c.hidden + 2 * c.intermediate)
    experts += _SWIGLU_BYTES * min(SWIGLU_ELEMENTS, busiest * 2 * c.intermediate)
    attention = itemsize * tokens * 2 * (attended + keyed)
    tile = max(min(MAX_SCORES, c.heads * min(tokens, QUERIES) * max(seen)), c.heads * max(seen))
    attention += _SCORE_BYTES * tile
    return int(held + max(experts, attention))


def _loss(c: ModelConfig, tokens: int, itemsize: int) -> int:
    logits = min(tokens, rows_at_a_time(c.vocab)) * c.vocab
    return logits * (4 + 2 * itemsize) + tokens * c.hidden * (3 * itemsize + 8)
