"""Runs a recipe: its stages in order, each exported when it ends.

Input: a TOML recipe and a folder OUT. Output: OUT/STAGE with log, curves and states; OUT/STAGE/model and OUT/model to
load, or for [lora] and [rl.lora] OUT/adapter.
"""

import ctypes
import os
import random
import shutil
import sys
from pathlib import Path

import torch

from ossia.harmony.render import render
from ossia.hub import find
from ossia.loading import tokenizer_file
from ossia.model.checkpoint import open_checkpoint, write_checkpoint
from ossia.model.config import PRESETS, ModelConfig
from ossia.task import tasks_of
from ossia.tokenizer.tokenizer import Tokenizer
from ossia.tokenizer.tokenizer_json import Vocabulary as TrainedVocabulary
from ossia.tokenizer.tokenizer_json import o200k_harmony, write_generation_config, write_tokenizer_json
from ossia.train.data.batches import BatchBuckets, Batches
from ossia.train.data.sequences import Conversation
from ossia.train.data.sources import maker, open_stream
from ossia.train.data.vocabulary import plain_text, train_vocabulary
from ossia.train.loop.distributed import DistributedContext
from ossia.train.loop.trainer import Objective, Trainer
from ossia.train.model.state import TrainedState
from ossia.train.model.stored import StoredTensors
from ossia.train.model.trainable import TrainableModel
from ossia.train.model.weights.lora import chosen, report
from ossia.train.objectives.grpo import GrpoObjective
from ossia.train.objectives.lora_finetune import adapter_writer, check_memory, finetune
from ossia.train.objectives.supervised import NextTokenObjective
from ossia.train.peft.format import read_adapter
from ossia.train.plan import check_rl, check_whole, free_bytes
from ossia.train.recipe import GrpoConfig, Lora, LoraConfig, Recipe, SupervisedConfig, VocabularyConfig, read_recipe

TOKENIZER = "tokenizer.json"


def run(recipe_path: Path, out: Path, *, skip_bad: bool = False) -> Path:
    """Train, or resume training. Returns the result's folder: out/model, or out/adapter for adapters.

    skip_bad: skip and count unreadable lines of data instead of raising.
    MemoryError, before training, if it does not fit.
    """
    recipe = read_recipe(recipe_path)
    retain_freed_memory()
    if recipe.lora is not None:
        return _train_adapters(recipe, recipe.lora, recipe_path, out, skip_bad)
    processes = DistributedContext.join(_device(recipe).type)
    try:
        if recipe.rl is not None and recipe.rl.lora is not None:
            return _train_adapters_by_rl(recipe, recipe.rl, recipe.rl.lora, recipe_path, out, processes)
        return _run_stages(recipe, recipe_path, out, skip_bad, processes)
    finally:
        processes.leave()


def _run_stages(recipe: Recipe, recipe_path: Path, out: Path, skip_bad: bool, processes: DistributedContext) -> Path:
    """Under torchrun all processes train; the first writes."""
    if processes.is_main:
        _copy_recipe(recipe_path, out)
    torch.manual_seed(recipe.seed)
    tokenizer, model = _initial_model(recipe, out, processes)
    model.to(processes.device)
    for name in ("pretrain", "sft", "rl"):
        if getattr(recipe, name) is not None:
            folder = out / name
            objective = _objective(name, recipe, model, tokenizer, skip_bad, recipe_path.parent, processes)
            trainer = Trainer(name, TrainedState(model), objective, folder, recipe.checkpoint, processes)
            resumed_at = trainer.step
            trainer.run()
            if processes.is_main and (resumed_at < trainer.step or not (folder / "model").exists()):
                export(model, out / TOKENIZER, folder / "model")
    if processes.is_main:
        export(model, out / TOKENIZER, out / "model")
    processes.barrier()
    return out / "model"


def print_plan(recipe_path: Path) -> None:
    """Print what a recipe trains and the memory it takes, without loading weights. MemoryError if it does not fit.

    A published model needs no files for this.
    """
    recipe = read_recipe(recipe_path)
    device = str(_device(recipe))
    config, layout = recipe.model, "hf"
    if recipe.start is not None:
        name = recipe.start.rpartition("/")[2]
        if name in PRESETS and not Path(recipe.start).is_dir():
            config = ModelConfig.preset(name)
        else:
            checkpoint = open_checkpoint(find(recipe.start))
            config, layout = checkpoint.config, checkpoint.layout
    assert config is not None, "a recipe without start has a model"
    if recipe.rl is not None and recipe.rl.lora is not None:
        print(
            check_rl(config, recipe.rl.lora, recipe.rl.batch_tokens, free_bytes(device), layout=layout, device=device)
        )
        return
    if recipe.lora is None:
        print(check_whole(config, free_bytes(device)))
        return
    adapter = recipe.lora.adapter
    lora = read_adapter(recipe_path.parent / adapter, config).lora if adapter else recipe.lora
    check_memory(config, lora, recipe.lora, DistributedContext(device=device), print, layout)


def _copy_recipe(recipe_path: Path, out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(recipe_path, out / "recipe.toml")


def _train_adapters(recipe: Recipe, given: LoraConfig, recipe_path: Path, out: Path, skip_bad: bool) -> Path:
    """[lora], in this process or in all that torchrun started."""
    start = str(recipe.start)
    folder = find(start)
    checkpoint, tokenizer = open_checkpoint(folder), Tokenizer.from_file(_tokenizer_of(folder))
    adapter = None if given.adapter is None else read_adapter(recipe_path.parent / given.adapter, checkpoint.config)
    max_seq_len = min(given.batch_tokens, checkpoint.config.max_context)
    is_main = os.environ.get("RANK", "0") == "0"  # before the process group exists
    stream = open_stream(
        given.data, tokenizer, seed=recipe.seed, max_seq_len=max_seq_len, everything=False, skip_bad=skip_bad,
        near=recipe_path.parent, say=print if is_main else _ignore,
    )  # fmt: skip
    buckets = BatchBuckets(stream, recipe.seed, given.batch_tokens, given.bucket_batches, strict=True)
    processes = DistributedContext.join(_device(recipe).type)
    try:
        if processes.is_main:
            _copy_recipe(recipe_path, out)
        base = str(folder.resolve()) if Path(start).is_dir() else start
        return finetune(
            checkpoint, given, Batches(buckets), out,
            seed=recipe.seed, checkpointing=recipe.checkpoint, processes=processes, base=base, adapter=adapter,
        )  # fmt: skip
    finally:
        processes.leave()


def _train_adapters_by_rl(
    recipe: Recipe, given: GrpoConfig, lora: Lora, recipe_path: Path, out: Path, processes: DistributedContext
) -> Path:
    """[rl.lora]: every process holds the whole frozen base, and all take the same steps."""
    start = str(recipe.start)
    folder = find(start)
    checkpoint, tokenizer = open_checkpoint(folder), Tokenizer.from_file(_tokenizer_of(folder))
    free = free_bytes(processes.device)
    options = {"layout": checkpoint.layout, "device": processes.device}
    _print(report(chosen(checkpoint.config, lora), lora, checkpoint.config), processes)
    _print(check_rl(checkpoint.config, lora, given.batch_tokens, free, **options), processes)
    if processes.is_main:
        _copy_recipe(recipe_path, out)
    torch.manual_seed(recipe.seed)
    model = TrainableModel.with_adapters(checkpoint, checkpoint.config, lora, seed=recipe.seed, device=processes.device)
    tasks = [task for each in given.tasks for task in tasks_of(each)]
    objective = GrpoObjective(model, tokenizer, tasks, given, recipe.seed, processes)
    base = str(folder.resolve()) if Path(start).is_dir() else start
    write = adapter_writer(out / "adapter", model, base)
    Trainer("rl", TrainedState(model), objective, out / "rl", recipe.checkpoint, processes, write).run()
    return out / "adapter"


def _objective(
    name: str,
    recipe: Recipe,
    model: TrainableModel,
    tokenizer: Tokenizer,
    skip_bad: bool,
    near: Path,
    processes: DistributedContext,
) -> Objective:
    given: SupervisedConfig | GrpoConfig = getattr(recipe, name)
    if isinstance(given, GrpoConfig):
        tasks = [task for each in given.tasks for task in tasks_of(each)]
        return GrpoObjective(model, tokenizer, tasks, given, recipe.seed, processes)
    max_seq_len = min(given.max_seq_len, model.config.max_context)
    stream = open_stream(
        given.data, tokenizer, seed=recipe.seed, max_seq_len=max_seq_len, everything=name == "pretrain", skip_bad=skip_bad,
        near=near, say=print if processes.is_main else _ignore,
    )  # fmt: skip
    buckets = BatchBuckets(stream, recipe.seed, given.batch_tokens, given.bucket_batches)
    return NextTokenObjective(model, Batches(buckets), given, processes)


def export(model: TrainableModel, tokenizer: Path, folder: Path) -> Path:
    """Write a loadable folder: weights with MXFP4 experts, config, tokenizer, generation settings. Replaces an old one."""
    stage = folder.with_name(folder.name + ".part")
    shutil.rmtree(stage, ignore_errors=True)
    write_checkpoint(stage, model.config, StoredTensors(model), "hf")
    shutil.copyfile(tokenizer, stage / TOKENIZER)
    write_generation_config(stage / "generation_config.json", Tokenizer.from_file(tokenizer).special)
    shutil.rmtree(folder, ignore_errors=True)
    stage.rename(folder)
    return folder


def _initial_model(recipe: Recipe, out: Path, processes: DistributedContext) -> tuple[Tokenizer, TrainableModel]:
    """The run's tokenizer and initial weights: of `start`, or a vocabulary trained once and random weights."""
    path, free = out / TOKENIZER, free_bytes(str(_device(recipe)))
    if recipe.start is not None:
        folder = find(recipe.start)
        checkpoint = open_checkpoint(folder)
        _print(check_whole(checkpoint.config, free), processes)
        if processes.is_main:
            shutil.copyfile(_tokenizer_of(folder), path)
        processes.barrier()
        return Tokenizer.from_file(path), TrainableModel.from_checkpoint(checkpoint, checkpoint.config)
    assert recipe.model is not None, "a recipe without start has a model"
    assert recipe.vocabulary is not None, "and a vocabulary"
    _print(check_whole(recipe.model, free), processes)
    if processes.is_main and not path.exists():
        write_tokenizer_json(path, _vocabulary(recipe.vocabulary, recipe.seed))
    processes.barrier()
    return Tokenizer.from_file(path), TrainableModel.random(recipe.model, recipe.seed)


def _ignore(text: str) -> None:
    """Drop a message that the first process prints."""


def _print(text: str, processes: DistributedContext) -> None:
    if processes.is_main:
        print(text, flush=True)


def _tokenizer_of(folder: Path) -> Path:
    if path := tokenizer_file(folder):
        return path
    raise FileNotFoundError(f"{folder} has no {TOKENIZER}: copy the model's {TOKENIZER} into this folder")


def _vocabulary(given: VocabularyConfig, seed: int) -> TrainedVocabulary:
    rng, any_tokenizer = random.Random(f"{seed}/vocabulary"), Tokenizer(o200k_harmony())
    makers, weights = [maker(source) for source in given.data], [source.weight for source in given.data]

    def text() -> str:
        make = rng.choices(makers, weights)[0]
        if make is None:
            raise ValueError("[vocabulary.data] takes generators and tasks, not files")
        made = make(rng)
        if isinstance(made, str):
            return made
        messages = made.messages if isinstance(made, Conversation) else made
        return plain_text(any_tokenizer.decode(render(any_tokenizer, messages)))

    return train_vocabulary((text() for _ in range(given.texts)), given.size)


def _device(recipe: Recipe) -> torch.device:
    if recipe.device == "cuda" and not torch.cuda.is_available():
        raise ValueError('device = "cuda", but torch sees no GPU: use "cpu" or "auto", or install torch for CUDA')
    name = recipe.device if recipe.device != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


def retain_freed_memory() -> None:
    """Make glibc retain freed memory. Each step frees and allocates a gigabyte; new pages would cost a third of its time."""
    if sys.platform != "linux":
        return
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):  # another C library: slower, but correct
        return
    trim_threshold, top_pad, mmap_max = -1, -2, -4  # malloc.h's M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX
    for option, value in ((mmap_max, 0), (trim_threshold, (1 << 31) - 1), (top_pad, 1 << 29)):
        mallopt(ctypes.c_int(option), ctypes.c_int(value))
