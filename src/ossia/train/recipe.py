"""A training recipe: a TOML file as frozen values. Every key is one of the fields below, with its meaning beside it.

In: a path. Out: a `Recipe`, or a ValueError that names the file, the table and the key that is wrong or unknown.
It does not know tensors, data or how a stage is run.
"""

import dataclasses
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import UnionType
from typing import Any, Literal, get_args, get_origin

import msgspec

from ossia.harmony.messages import Effort
from ossia.model.config import ModelConfig, alternating


@dataclass(frozen=True, slots=True, kw_only=True)
class DataSource:
    """[[STAGE.data]]: one source of conversations or texts; exactly one of the first five is given.

    tasks: "module:name" of one task, several, or a function that gives them; an expert's turns are learnt, at any effort.
    generator: "module:function"; called with a random.Random, it gives messages, a `Conversation` or a text.
    jsonl: conversations, a row each: a file (JSON lines, a JSON array, Parquet, Arrow; .gz and .zst), a folder or a pattern.
    harmony: a file of harmony text; <|endoftext|> stands between conversations.
    text: a file of plain text, or rows as above with a "text" each.
    weight: how often it is drawn, against the other sources' weights.
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
            raise ValueError(f"want exactly one of {', '.join(kinds)}; given: {', '.join(given) or 'none'}")
        if self.weight <= 0:
            raise ValueError("weight must be above 0")


@dataclass(frozen=True, slots=True, kw_only=True)
class VocabularyConfig:
    """[vocabulary]: the byte-pair vocabulary that a new model learns from its data.

    size: ids in all, special tokens among them.
    texts: conversations or texts that it is learnt from.
    data: sources as in a stage, generators and tasks alone.
    """

    data: tuple[DataSource, ...]
    size: int = 1024
    texts: int = 20000


@dataclass(frozen=True, slots=True, kw_only=True)
class OptimizerConfig:
    """[STAGE.optimizer]: how gradients change parameters.

    kind: "adamw" for all, or "muon" for matrices inside the layers (each expert's by itself) and AdamW for the rest.
    rate: AdamW's peak learning rate.
    muon_rate: Muon's peak learning rate; its updates are scaled to AdamW's size.
    sharpness_rate: AdamW's peak rate of log a, where all logits are a times as large (a is kept in the final norm's scale);
        None leaves a alone.
    beta1, beta2, eps: AdamW's.
    momentum: Muon's.
    weight_decay: of matrices; vectors have none.
    clip: the largest norm of a gradient.
    """

    kind: Literal["adamw", "muon"] = "adamw"
    rate: float = 2e-3
    muon_rate: float = 2e-3
    sharpness_rate: float | None = None
    beta1: float = 0.9
    beta2: float = 0.98
    eps: float = 1e-9
    momentum: float = 0.95
    weight_decay: float = 0.05
    clip: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ScheduleConfig:
    """[STAGE.schedule]: what share of the peak rate a step has.

    warmup: steps in which the rate rises to its peak.
    shape: "constant"; "cosine" or "linear" down to `final` of the peak; "wsd" stays, then falls along a line at the end.
    final: the last step's share of the peak.
    decay: of "wsd", the share of all steps in which the rate falls.
    """

    warmup: int = 100
    shape: Literal["constant", "cosine", "linear", "wsd"] = "cosine"
    final: float = 0.05
    decay: float = 0.2


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointConfig:
    """[keep]: what is written while a stage runs.

    save_every, log_every: in steps.
    plot: write metrics.html, curves of the log, at each save.
    tensorboard: write event files too; needs the extra of that name.
    """

    save_every: int = 200
    log_every: int = 20
    plot: bool = True
    tensorboard: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class SupervisedConfig:
    """[pretrain], where every token is a target, and [sft], where only what the assistant says is.

    steps: updates of the parameters.
    step_tokens: rows of one batch, about.
    accumulate: batches whose gradients make one update.
    round_batches: batches whose sequences are sorted by length together.
    longest: tokens of the longest sequence; a longer generated one is left out and counted, one in a file is bad.
    balance: weight of the experts' load-balancing loss.
    rounding: what the forward pass sees: experts in "mxfp4", everything "stored" (the rest in bfloat16), or "none".
    precision: of matrix products; "auto" is bfloat16 where a GPU has it; "bf16" and "f32" say it.
    compile: fuse what runs between products with torch.compile; needs a C++ compiler, and a minute at the first start.
    data, optimizer, schedule: tables, each described above.
    """

    data: tuple[DataSource, ...]
    steps: int
    step_tokens: int
    accumulate: int = 1
    round_batches: int = 16
    longest: int = 2048
    balance: float = 0.01
    rounding: Literal["mxfp4", "stored", "none"] = "mxfp4"
    precision: Literal["auto", "bf16", "f32"] = "auto"
    compile: bool = False
    optimizer: OptimizerConfig = dataclasses.field(default_factory=OptimizerConfig)
    schedule: ScheduleConfig = dataclasses.field(default_factory=ScheduleConfig)

    def __post_init__(self) -> None:
        small = [n for n in ("steps", "step_tokens", "accumulate", "round_batches") if getattr(self, n) < 1]
        if small or not self.data:
            raise ValueError(f"want at least 1 of: {', '.join(small) or 'data'}")


@dataclass(frozen=True, slots=True, kw_only=True)
class LengthPenalty:
    """[rl.prices]: what a token of thinking costs of the reward, by effort; so low is short and high may be long.

    low, medium, high: the price of a token.
    most: no answer pays more than this, so that a right one, however long, beats a wrong one.
    """

    low: float = 0.004
    medium: float = 0.001
    high: float = 0.0
    most: float = 0.5

    def of(self, effort: Effort) -> float:
        return {"low": self.low, "medium": self.medium, "high": self.high}[effort]

    def __post_init__(self) -> None:
        if min(self.low, self.medium, self.high) < 0 or not 0 <= self.most < 1:
            raise ValueError("prices must not be below 0, and most must be in 0..1")


EVERYTHING = ("self_attn.*", "mlp.router", "mlp.experts.*")


@dataclass(frozen=True, slots=True, kw_only=True)
class Lora:
    """Which weights get an adapter, and of what size; the keys of [lora] that say so.

    rank: PEFT's r.
    alpha: updates are scaled by alpha / rank.
    dropout: of attention's and the router's inputs; experts have none.
    targets: patterns of weights' names as Hugging Face has them, whole ("model.layers.3.self_attn.q_proj") or from any
        dot on ("q_proj", "self_attn.*", "layers.1?.mlp.experts.*").
    """

    rank: int = 8
    alpha: float = 16.0
    dropout: float = 0.0
    targets: tuple[str, ...] = EVERYTHING

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
    """[rl]: reinforcement learning from graded answers.

    tasks: "module:name"s, each of one task, several, or a function that gives them; drawn by their own weights.
    steps: rounds of rollouts, each followed by its updates.
    prompts: examples a step; every one is answered `group` times.
    group: answers of one prompt, whose mean reward is each one's measure.
    updates: optimizer steps a round of rollouts; from the second on the clipped ratio holds the policy back.
    efforts: they take turns.
    focus: how much rarer a task is drawn at an effort where its groups' grades are all alike, from 0 to below 1.
    most_tokens: of one sampling; an answer cut there is graded as it stands.
    most_steps: samplings of one answer, with tools run between them.
    clip_low, clip_high: how far below and above 1 an importance ratio counts.
    divide_by_deviation: advantages in units of the group's deviation (GRPO), or as they are (Dr. GRPO).
    most_gap: training stops when trainer and engine differ by more in their mean log-probability of a sampled token.
    step_tokens: rows of one batch, about.
    balance: weight of the experts' load-balancing loss.
    precision, compile: as in [sft], of what is learnt; rollouts, and the look at the gap, are in the engine's float32.
    lora: train adapters over the frozen checkpoint, not its weights. Lora's keys; the recipe has `start`, and no other
        stage. The router's balance is then not part of the loss.
    prices, optimizer, schedule: tables, each described above.
    """

    tasks: tuple[str, ...]
    steps: int
    prompts: int = 16
    group: int = 8
    updates: int = 1
    efforts: tuple[Effort, ...] = ("low", "medium", "high")
    focus: float = 0.0
    most_tokens: int = 512
    most_steps: int = 4
    clip_low: float = 0.2
    clip_high: float = 0.28
    divide_by_deviation: bool = False
    most_gap: float = 0.02
    step_tokens: int = 6000
    balance: float = 0.0
    precision: Literal["auto", "bf16", "f32"] = "auto"
    compile: bool = False
    lora: Lora | None = None
    prices: LengthPenalty = dataclasses.field(default_factory=LengthPenalty)
    optimizer: OptimizerConfig = dataclasses.field(default_factory=lambda: OptimizerConfig(rate=1e-4, weight_decay=0.0))
    schedule: ScheduleConfig = dataclasses.field(default_factory=lambda: ScheduleConfig(shape="constant", warmup=5))

    def __post_init__(self) -> None:
        small = [n for n in ("steps", "prompts", "updates", "step_tokens", "most_tokens") if getattr(self, n) < 1]
        if small or self.group < 2 or not self.tasks or not self.efforts:
            raise ValueError(f"want at least 1 of: {', '.join(small) or 'tasks, efforts'}; and a group of 2 or more")
        if self.lora and self.optimizer.kind != "adamw":
            raise ValueError('[rl.lora] is trained with kind = "adamw" only: Muon is for whole matrices')
        if self.lora and self.balance:
            raise ValueError("[rl.lora] leaves the router's balance alone: set balance = 0")
        if not 0 <= self.focus < 1:
            raise ValueError(f"focus {self.focus} must be at least 0 and below 1: no task is left out for good")


@dataclass(frozen=True, slots=True, kw_only=True)
class LoraConfig(Lora):
    """[lora]: what [sft] does, through adapters, over a checkpoint that stays as it is stored. Lora's keys, and:

    steps: updates of the adapters.
    batch_tokens: the most tokens of a batch, and so of a sequence; memory grows with it.
    accumulate: batches whose gradients make one update, over all processes together.
    round_batches: batches whose sequences are sorted by length together.
    precision: "bf16" or "f32", what is computed in; adapters and their moments are float32 always.
    adapter: the folder of an adapter in PEFT's format to begin with; rank, alpha, dropout and targets are then its own.
    data, optimizer, schedule: tables, each described above; the optimizer is AdamW.
    """

    data: tuple[DataSource, ...]
    steps: int
    batch_tokens: int = 2048
    accumulate: int = 1
    round_batches: int = 16
    precision: Literal["bf16", "f32"] = "bf16"
    adapter: str | None = None
    optimizer: OptimizerConfig = dataclasses.field(
        default_factory=lambda: OptimizerConfig(rate=2e-4, beta2=0.99, eps=1e-8, weight_decay=0.0)
    )
    schedule: ScheduleConfig = dataclasses.field(default_factory=lambda: ScheduleConfig(warmup=10, final=0.1))

    def __post_init__(self) -> None:
        Lora.__post_init__(self)
        small = [n for n in ("steps", "batch_tokens", "accumulate", "round_batches") if getattr(self, n) < 1]
        if small or not self.data:
            raise ValueError(f"want at least 1 of: {', '.join(small) or 'data'}")
        if self.optimizer.kind != "adamw":
            raise ValueError('[lora.optimizer] knows kind = "adamw" alone: Muon is for whole matrices')


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """A whole file. Its stages run in the order pretrain, sft, rl, each from where the one before ended; lora runs alone.

    seed: of first weights, data order and sampling.
    start: a checkpoint's folder or name to begin from; its tokenizer is used. Otherwise [model] and [vocabulary] are.
    model: ModelConfig's fields; vocab comes from the vocabulary, layers slide by turns unless said.
    device: "cpu" or "cuda"; "auto" takes a GPU where there is one.
    vocabulary, keep, pretrain, sft, rl, lora: tables, each described above.
    """

    seed: int = 1
    start: str | None = None
    device: Literal["auto", "cpu", "cuda"] = "auto"
    model: ModelConfig | None = None
    vocabulary: VocabularyConfig | None = None
    keep: CheckpointConfig = dataclasses.field(default_factory=CheckpointConfig)
    pretrain: SupervisedConfig | None = None
    sft: SupervisedConfig | None = None
    rl: GrpoConfig | None = None
    lora: LoraConfig | None = None

    def __post_init__(self) -> None:
        if (self.start is None) != (self.model is not None and self.vocabulary is not None):
            raise ValueError("want either start, or both [model] and [vocabulary]")
        stages = self.pretrain or self.sft or self.rl
        if not (stages or self.lora):
            raise ValueError("want one stage at least: [pretrain], [sft], [rl] or [lora]")
        if self.lora and (stages or self.start is None):
            raise ValueError("[lora] trains adapters over a checkpoint: it wants start, and no other stage beside it")
        if self.rl and self.rl.lora and (self.pretrain or self.sft or self.start is None):
            raise ValueError("[rl.lora] trains adapters over a checkpoint: it wants start, and no stage before [rl]")


def read_recipe(path: Path) -> Recipe:
    """Raises ValueError naming the file and what is unknown, missing or of the wrong kind."""
    try:
        raw = tomllib.loads(path.read_text("utf-8"))
        _complete_model(raw)
        if unknown := list(_unknown(raw, Recipe, "")):
            raise ValueError("; ".join(unknown))
        return msgspec.convert(raw, Recipe)
    except (tomllib.TOMLDecodeError, ValueError) as error:
        raise ValueError(f"{path}: {error}") from error


def _complete_model(raw: dict[str, Any]) -> None:
    """What [model] leaves out and the rest of the file says."""
    model = raw.get("model")
    if isinstance(model, dict):
        vocabulary = raw.get("vocabulary", {})
        model.setdefault("vocab", vocabulary.get("size", VocabularyConfig.__dataclass_fields__["size"].default))
        model.setdefault("sliding", alternating(int(model.get("layers", 0))))


def _unknown(raw: Any, kind: Any, where: str) -> Iterator[str]:
    """A sentence for every key that no field has, at any depth."""
    if isinstance(raw, Mapping) and dataclasses.is_dataclass(kind):
        known = {field.name: field.type for field in dataclasses.fields(kind)}
        if unknown := sorted(raw.keys() - known.keys()):
            table = f"[{where}]" if where else "the recipe"
            yield f"unknown keys in {table}: {', '.join(unknown)}; known are {', '.join(sorted(known))}"
        for name in raw.keys() & known.keys():
            yield from _unknown(raw[name], known[name], f"{where}.{name}" if where else name)
    elif isinstance(kind, UnionType):
        for option in get_args(kind):
            yield from _unknown(raw, option, where)
    elif isinstance(raw, list) and get_origin(kind) is tuple:
        for each in raw:
            yield from _unknown(each, get_args(kind)[0], where)
