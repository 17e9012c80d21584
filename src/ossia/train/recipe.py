"""A training recipe: a TOML file as frozen values. Each key of the file is a field of a class below.

Input: a path. Output: a `Recipe`, or a ValueError that names the file, the table and the wrong or unknown key.
Old names of keys are replaced by `renamed` before the file is read.
"""

import dataclasses
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from types import UnionType
from typing import Any, Literal, get_args, get_origin

import msgspec

from ossia.harmony.messages import Effort
from ossia.model.config import ModelConfig, alternating
from ossia.train.renamed import with_new_names


@dataclass(frozen=True, slots=True, kw_only=True)
class DataSource:
    """[[STAGE.data]]: one source of conversations or texts. Give exactly one of the first five keys.

    tasks: "module:name" of one task, several tasks, or a function that returns them. The expert's turns are the targets.
    generator: "module:function", called with a random.Random. It returns messages, a `Conversation` or a text.
    jsonl: conversations, one per row. A file (JSON lines, a JSON array, Parquet, Arrow; .gz and .zst), a folder or a glob.
    harmony: a file of harmony text, with <|endoftext|> between conversations.
    text: a file of plain text, or rows as for jsonl with a "text" column.
    weight: how often this source is drawn, relative to the other sources.
    """

    tasks: str | None = None
    generator: str | None = None
    jsonl: str | None = None
    harmony: str | None = None
    text: str | None = None
    weight: float = 1.0

    def __post_init__(self) -> None:
        kinds = ("tasks", "generator", "jsonl", "harmony", "text")
        given = [name for name in kinds if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"give exactly one of {', '.join(kinds)}; given: {', '.join(given) or 'none'}")
        if self.weight <= 0:
            raise ValueError("weight must be above 0")


@dataclass(frozen=True, slots=True, kw_only=True)
class VocabularyConfig:
    """[vocabulary]: the byte-pair vocabulary of a new model, trained on its data.

    size: number of token ids, special tokens included.
    texts: number of conversations or texts to train on.
    data: sources as in a stage; generators and tasks only.
    """

    data: tuple[DataSource, ...]
    size: int = 1024
    texts: int = 20000


@dataclass(frozen=True, slots=True, kw_only=True)
class OptimizerConfig:
    """[STAGE.optimizer]: the optimizer and its settings.

    kind: "adamw" for all parameters. "muon": Muon for the matrices inside the layers (each expert's own), AdamW for the rest.
    lr: AdamW's peak learning rate.
    muon_lr: Muon's peak learning rate; its updates are scaled to AdamW's size.
    logit_scale_lr: peak learning rate of the log of a scale on all logits, stored in the final norm's weight. None: fixed.
    beta1, beta2, eps: of AdamW.
    momentum: of Muon.
    weight_decay: of matrices; vectors have none.
    max_grad_norm: gradients are clipped to this norm.
    """

    kind: Literal["adamw", "muon"] = "adamw"
    lr: float = 2e-3
    muon_lr: float = 2e-3
    logit_scale_lr: float | None = None
    beta1: float = 0.9
    beta2: float = 0.98
    eps: float = 1e-9
    momentum: float = 0.95
    weight_decay: float = 0.05
    max_grad_norm: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ScheduleConfig:
    """[STAGE.schedule]: the learning rate of each step, as a ratio of the peak.

    warmup_steps: the rate rises linearly to its peak.
    shape: "constant"; "cosine" or "linear" decay to `min_lr_ratio`; "wsd" is constant, then decays linearly at the end.
    min_lr_ratio: the ratio at the last step.
    decay_ratio: for "wsd", the part of all steps in which the rate decays.
    """

    warmup_steps: int = 100
    shape: Literal["constant", "cosine", "linear", "wsd"] = "cosine"
    min_lr_ratio: float = 0.05
    decay_ratio: float = 0.2


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointConfig:
    """[checkpoint]: what is written while a stage runs.

    save_every, log_every: in steps.
    plot: write metrics.html, curves of the log, at each save.
    tensorboard: also write event files; needs the extra `ossia[tensorboard]`.
    """

    save_every: int = 200
    log_every: int = 20
    plot: bool = True
    tensorboard: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class SupervisedConfig:
    """[pretrain], where every token is a target, and [sft], where only the assistant's tokens are.

    steps: optimizer steps.
    batch_tokens: approximate number of tokens in a batch.
    accumulate: batches whose gradients are summed for one optimizer step, over all processes together.
    bucket_batches: the sequences of this many batches are sorted by length together.
    max_seq_len: tokens. A longer generated sequence is skipped and counted; one from a file is an error.
    router_aux_loss_coef: weight of the router's load-balancing loss.
    rounding: what the forward pass sees: experts in "mxfp4", everything as "stored" (the rest in bfloat16), or "none".
    precision: of matrix products. "auto" is bf16 on a GPU that supports it, else f32.
    compile: fuse element-wise operations with torch.compile. Needs a C++ compiler; the first start takes a minute longer.
    data, optimizer, schedule: tables, described above.
    """

    data: tuple[DataSource, ...]
    steps: int
    batch_tokens: int
    accumulate: int = 1
    bucket_batches: int = 16
    max_seq_len: int = 2048
    router_aux_loss_coef: float = 0.01
    rounding: Literal["mxfp4", "stored", "none"] = "mxfp4"
    precision: Literal["auto", "bf16", "f32"] = "auto"
    compile: bool = False
    optimizer: OptimizerConfig = dataclasses.field(default_factory=OptimizerConfig)
    schedule: ScheduleConfig = dataclasses.field(default_factory=ScheduleConfig)

    def __post_init__(self) -> None:
        small = [n for n in ("steps", "batch_tokens", "accumulate", "bucket_batches") if getattr(self, n) < 1]
        if small or not self.data:
            raise ValueError(f"{', '.join(small)} must be at least 1" if small else "give at least one table of data")


@dataclass(frozen=True, slots=True, kw_only=True)
class LengthPenalty:
    """[rl.length_penalty]: what each token of thinking subtracts from the reward, by effort.

    low, medium, high: penalty of one token.
    max_penalty: largest penalty of one answer. Below 1, so that a correct long answer beats a wrong one.
    """

    low: float = 0.004
    medium: float = 0.001
    high: float = 0.0
    max_penalty: float = 0.5

    def of(self, effort: Effort) -> float:
        return {"low": self.low, "medium": self.medium, "high": self.high}[effort]

    def __post_init__(self) -> None:
        if min(self.low, self.medium, self.high) < 0 or not 0 <= self.max_penalty < 1:
            raise ValueError("low, medium and high must be at least 0, and max_penalty at least 0 and below 1")


ALL_TARGETS = ("self_attn.*", "mlp.router", "mlp.experts.*")


@dataclass(frozen=True, slots=True, kw_only=True)
class Lora:
    """[lora]: which weights get an adapter, and its size.

    rank: PEFT's r.
    alpha: updates are scaled by alpha / rank.
    dropout: of the inputs of attention and router; experts have none.
    targets: patterns of Hugging Face weight names: whole ("model.layers.3.self_attn.q_proj"), or starting after any dot
        ("q_proj", "self_attn.*", "layers.1?.mlp.experts.*").
    """

    rank: int = 8
    alpha: float = 16.0
    dropout: float = 0.0
    targets: tuple[str, ...] = ALL_TARGETS

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise ValueError(f"LoRA rank {self.rank} must be at least 1")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"LoRA dropout {self.dropout} must be at least 0 and below 1")
        if not self.alpha > 0:
            raise ValueError(f"LoRA alpha {self.alpha} must be above 0")
        if not self.targets:
            raise ValueError("LoRA targets are empty: nothing would be trained")

    @property
    def scale(self) -> float:
        return self.alpha / self.rank


@dataclass(frozen=True, slots=True, kw_only=True)
class GrpoConfig:
    """[rl]: reinforcement learning from graded answers (GRPO).

    tasks: list of "module:name", each one task, several tasks, or a function that returns them. Drawn by their weights.
    steps: rounds of rollouts.
    prompts_per_step: examples of one step; each is answered `group_size` times.
    group_size: answers of one prompt. The mean of their rewards is the baseline.
    updates_per_step: optimizer steps of one round. From the second on, the importance ratio is clipped.
    efforts: used round-robin.
    curriculum: from 0 to below 1. A task whose groups have no reward variance is drawn up to 1 / (1 - curriculum) times
        less often at that effort.
    max_tokens: per completion. A truncated answer is graded as is.
    max_turns: completions of one answer, with tool calls between them.
    clip_low, clip_high: the importance ratio is clipped to 1 - clip_low .. 1 + clip_high.
    scale_rewards: divide advantages by the group's standard deviation (GRPO), or not (Dr. GRPO).
    max_logprob_gap: training stops when trainer and engine differ by more in their mean log-probability of a token.
    batch_tokens: approximate number of tokens in a batch.
    router_aux_loss_coef: weight of the router's load-balancing loss.
    precision, compile: as in [sft]. Rollouts, and the check of the gap, use the engine's float32.
    lora: train adapters over the frozen checkpoint. Keys as in [lora]. Needs `start` and no other stage, and no
        load-balancing loss.
    length_penalty, optimizer, schedule: tables, described above.
    """

    tasks: tuple[str, ...]
    steps: int
    prompts_per_step: int = 16
    group_size: int = 8
    updates_per_step: int = 1
    efforts: tuple[Effort, ...] = ("low", "medium", "high")
    curriculum: float = 0.0
    max_tokens: int = 512
    max_turns: int = 4
    clip_low: float = 0.2
    clip_high: float = 0.28
    scale_rewards: bool = False
    max_logprob_gap: float = 0.02
    batch_tokens: int = 6000
    router_aux_loss_coef: float = 0.0
    precision: Literal["auto", "bf16", "f32"] = "auto"
    compile: bool = False
    lora: Lora | None = None
    length_penalty: LengthPenalty = dataclasses.field(default_factory=LengthPenalty)
    optimizer: OptimizerConfig = dataclasses.field(default_factory=lambda: OptimizerConfig(lr=1e-4, weight_decay=0.0))
    schedule: ScheduleConfig = dataclasses.field(
        default_factory=lambda: ScheduleConfig(shape="constant", warmup_steps=5)
    )

    def __post_init__(self) -> None:
        counts = ("steps", "prompts_per_step", "updates_per_step", "batch_tokens", "max_tokens")
        if small := [name for name in counts if getattr(self, name) < 1]:
            raise ValueError(f"{', '.join(small)} must be at least 1")
        if self.group_size < 2 or not self.tasks or not self.efforts:
            raise ValueError("give at least one of tasks and of efforts, and a group_size of at least 2")
        if self.lora and self.optimizer.kind != "adamw":
            raise ValueError('[rl.lora] needs [rl.optimizer] kind = "adamw": Muon cannot train adapters')
        if self.lora and self.router_aux_loss_coef:
            raise ValueError("[rl.lora] has no load-balancing loss: set router_aux_loss_coef = 0")
        if not 0 <= self.curriculum < 1:
            raise ValueError(f"curriculum {self.curriculum} must be at least 0 and below 1")


@dataclass(frozen=True, slots=True, kw_only=True)
class LoraConfig(Lora):
    """[lora]: as [sft], with adapters over a frozen checkpoint. The keys of `Lora`, and:

    steps: optimizer steps.
    batch_tokens: maximum tokens of a batch, and so of a sequence. Memory grows with it.
    accumulate: batches whose gradients are summed for one optimizer step, over all processes together.
    bucket_batches: the sequences of this many batches are sorted by length together.
    precision: of the computation, "bf16" or "f32". Adapters and their moments are always float32.
    compile: as in [sft].
    recompute: "always" recomputes a block's activations in the backward pass, which saves memory; "never" keeps them;
        "auto" keeps them if the step then takes at most half of the free memory.
    adapter: folder of a PEFT adapter to start from. Its rank, alpha, dropout and targets are used.
    data, optimizer, schedule: tables, described above. The optimizer is AdamW.
    """

    data: tuple[DataSource, ...]
    steps: int
    batch_tokens: int = 2048
    accumulate: int = 1
    bucket_batches: int = 16
    precision: Literal["bf16", "f32"] = "bf16"
    compile: bool = False
    recompute: Literal["auto", "always", "never"] = "auto"
    adapter: str | None = None
    optimizer: OptimizerConfig = dataclasses.field(
        default_factory=lambda: OptimizerConfig(lr=2e-4, beta2=0.99, eps=1e-8, weight_decay=0.0)
    )
    schedule: ScheduleConfig = dataclasses.field(
        default_factory=lambda: ScheduleConfig(warmup_steps=10, min_lr_ratio=0.1)
    )

    def __post_init__(self) -> None:
        Lora.__post_init__(self)
        small = [n for n in ("steps", "batch_tokens", "accumulate", "bucket_batches") if getattr(self, n) < 1]
        if small or not self.data:
            raise ValueError(f"{', '.join(small)} must be at least 1" if small else "give at least one table of data")
        if self.optimizer.kind != "adamw":
            raise ValueError('[lora.optimizer]: set kind = "adamw"; Muon cannot train adapters')


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """A whole recipe. Stages run in the order pretrain, sft, rl, each from the weights of the previous one.

    [lora] runs alone.

    seed: of initial weights, data order and sampling.
    start: folder or name of a checkpoint to start from, with its tokenizer. Otherwise give [model] and [vocabulary].
    model: fields of ModelConfig. `vocab` comes from [vocabulary]; layers alternate sliding and full attention by default.
    device: "cpu" or "cuda"; "auto" uses a GPU if there is one.
    vocabulary, checkpoint, pretrain, sft, rl, lora: tables, described above.
    """

    seed: int = 1
    start: str | None = None
    device: Literal["auto", "cpu", "cuda"] = "auto"
    model: ModelConfig | None = None
    vocabulary: VocabularyConfig | None = None
    checkpoint: CheckpointConfig = dataclasses.field(default_factory=CheckpointConfig)
    pretrain: SupervisedConfig | None = None
    sft: SupervisedConfig | None = None
    rl: GrpoConfig | None = None
    lora: LoraConfig | None = None

    def __post_init__(self) -> None:
        if (self.start is None) != (self.model is not None and self.vocabulary is not None):
            raise ValueError("give either start, or both [model] and [vocabulary]")
        stages = self.pretrain or self.sft or self.rl
        if not (stages or self.lora):
            raise ValueError("give at least one stage: [pretrain], [sft], [rl] or [lora]")
        if self.lora and (stages or self.start is None):
            raise ValueError("[lora] trains adapters over a checkpoint: give start, and no other stage")
        if self.rl and self.rl.lora and (self.pretrain or self.sft or self.start is None):
            raise ValueError("[rl.lora] trains adapters over a checkpoint: give start, and no stage before [rl]")


def read_recipe(path: Path) -> Recipe:
    """Raises ValueError naming the file and what is unknown, missing or of the wrong type. FutureWarning for old names."""
    try:
        raw = with_new_names(tomllib.loads(path.read_text("utf-8")))
        _complete_model(raw)
        if unknown := list(_unknown(raw, Recipe, "")):
            raise ValueError("; ".join(unknown))
        return msgspec.convert(raw, Recipe)
    except (tomllib.TOMLDecodeError, ValueError) as error:
        raise ValueError(f"{path}: {error}") from error


def _complete_model(raw: dict[str, Any]) -> None:
    """Fill in what [model] omits and other tables say."""
    model = raw.get("model")
    if isinstance(model, dict):
        vocabulary = raw.get("vocabulary", {})
        model.setdefault("vocab", vocabulary.get("size", VocabularyConfig.__dataclass_fields__["size"].default))
        model.setdefault("sliding", alternating(int(model.get("layers", 0))))


def _unknown(raw: Any, kind: Any, where: str) -> Iterator[str]:
    """A sentence for each unknown key, at any depth, with the known keys most like it."""
    if isinstance(raw, Mapping) and dataclasses.is_dataclass(kind):
        known = {field.name: field.type for field in dataclasses.fields(kind)}
        if unknown := sorted(raw.keys() - known.keys()):
            table = f"[{where}]" if where else "the recipe"
            similar = {key: get_close_matches(key, known, 1) for key in unknown}
            meant = [f"{found[0]!r} for {key!r}" for key, found in similar.items() if found]
            hint = f"did you mean {', '.join(meant)}? " if meant else ""
            yield f"unknown keys in {table}: {', '.join(unknown)}; {hint}known are {', '.join(sorted(known))}"
        for name in raw.keys() & known.keys():
            yield from _unknown(raw[name], known[name], f"{where}.{name}" if where else name)
    elif isinstance(kind, UnionType):
        for option in get_args(kind):
            yield from _unknown(raw, option, where)
    elif isinstance(raw, list) and get_origin(kind) is tuple:
        for each in raw:
            yield from _unknown(each, get_args(kind)[0], where)
