"""Recipes: every key documented, unknown and wrong ones refused by name, and a whole one from nothing to a model."""

import dataclasses
import re
from itertools import pairwise
from pathlib import Path

import pytest

from ossia.model.checkpoint import open_checkpoint
from ossia.train import recipe as recipes
from ossia.train.loop.metrics import read_log
from ossia.train.loop.optim import lr_multiplier
from ossia.train.recipe import Recipe, ScheduleConfig, read_recipe
from ossia.train.run import run

RECIPES = Path(__file__).parents[2] / "recipes"
TINY = """
seed = 5
[model]
layers = 1
hidden = 32
intermediate = 32
heads = 2
kv_heads = 1
head_dim = 16
experts = 4
experts_per_token = 2
window = 16
max_context = 1024
initial_context = 64
rope_factor = 8.0
[checkpoint]
log_every = 1
[vocabulary]
size = 300
texts = 30
[[vocabulary.data]]
generator = "tests.support.training:chatter"
[pretrain]
steps = 2
batch_tokens = 300
bucket_batches = 2
[[pretrain.data]]
generator = "tests.support.training:prose"
[sft]
steps = 3
batch_tokens = 300
bucket_batches = 2
[[sft.data]]
jsonl = "chat.jsonl"
"""
CHAT = '{"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]}\n'


def written(folder: Path, text: str) -> Path:
    path = folder / "recipe.toml"
    path.write_text(text)
    return path


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.toml")), ids=lambda path: path.name)
def test_the_recipes_of_the_repository_are_read(path: Path):
    assert isinstance(read_recipe(path), Recipe)


def test_every_field_is_documented_in_its_class():
    kinds = [
        each
        for each in vars(recipes).values()
        if dataclasses.is_dataclass(each) and each.__module__ == recipes.__name__
    ]
    assert len(kinds) > 6
    for kind in kinds:
        told = re.findall(r"^    ([a-z_0-9, ]+):", "\n".join(each.__doc__ or "" for each in kind.__mro__), re.MULTILINE)
        documented = {name.strip() for line in told for name in line.split(",")}
        missing = {field.name for field in dataclasses.fields(kind)} - documented
        assert not missing, (kind.__name__, missing)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("seed = 5", "seeds = 5", "unknown keys in the recipe: seeds"),
        ("[sft]", "[sft]\ntypo = 1", r"unknown keys in \[sft\]: typo"),
        ("[sft]", "[sft]\nmax_sequence_len = 1", "did you mean 'max_seq_len' for 'max_sequence_len'"),
        ("[sft]", "[sft.optimizer]\nratio = 1\n[sft]", r"unknown keys in \[sft.optimizer\]: ratio"),
        ('jsonl = "chat.jsonl"', 'jsonl = "chat.jsonl"\nurl = 1', r"unknown keys in \[sft.data\]: url"),
        ("layers = 1", "layers = 1\ndepth = 1", r"unknown keys in \[model\]: depth"),
        ("steps = 3", 'steps = "3"', r"Expected `int`, got `str` - at `\$.sft.steps`"),
        ("steps = 3", "steps = 0", r"steps must be at least 1"),
        ("steps = 3", "", "steps"),
        ("hidden = 32", "hidden = 33", "must be a multiple of 32"),
        ('jsonl = "chat.jsonl"', "", "give exactly one of"),
        ('jsonl = "chat.jsonl"', 'jsonl = "chat.jsonl"\ntext = "a"', "given: jsonl, text"),
        ("[vocabulary]\nsize = 300\ntexts = 30\n[[vocabulary.data]]", "[[pretrain.data]]", "give either start, or both"),
        ("seed = 5", "seed = ", "recipe.toml: "),
        ("[pretrain]", "[lora]\nsteps = 1\ndata = [{text = 'a'}]\n[pretrain]", "give start, and no other stage"),
        ("[pretrain]", "[lora]\nsteps = 1\nr = 8\ndata = [{text = 'a'}]\n[pretrain]", r"unknown keys in \[lora\]: r; known"),
        ("[pretrain]", "[lora]\nsteps = 1\nrank = 0\ndata = [{text = 'a'}]\n[pretrain]", "rank 0 must be at least 1"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(tmp_path: Path, old: str, new: str, said: str):
    assert old in TINY
    with pytest.raises(ValueError, match=said):
        read_recipe(written(tmp_path, TINY.replace(old, new, 1)))


def test_a_recipe_trains_stage_by_stage_from_nothing_to_a_model_that_loads(tmp_path: Path):
    (tmp_path / "chat.jsonl").write_text(CHAT)
    out = tmp_path / "out"
    folder = run(written(tmp_path, TINY), out)
    assert {path.name for path in folder.iterdir()} == {
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
    }
    assert open_checkpoint(folder).config.vocab == 300
    assert [len(read_log(out / stage / "log.jsonl")) for stage in ("pretrain", "sft")] == [2, 3]
    first, last = ((out / stage / "model" / "model.safetensors").read_bytes() for stage in ("pretrain", "sft"))
    assert first != last
    assert (folder / "model.safetensors").read_bytes() == last

    again = run(written(tmp_path, TINY), out)  # all is done: nothing is trained anew
    assert (again / "model.safetensors").read_bytes() == last
    assert len(read_log(out / "sft" / "log.jsonl")) == 3

    start = (
        'start = "out/model"\n'
        + TINY[TINY.index("[checkpoint]") : TINY.index("[vocabulary]")]
        + TINY[TINY.index("[sft]") :]
    )
    start = start.replace("out/model", str(folder))
    longer = run(written(tmp_path, start.replace("steps = 3", "steps = 1")), tmp_path / "more")
    assert (longer / "tokenizer.json").read_bytes() == (folder / "tokenizer.json").read_bytes()
    before, after = (
        read_log(path / "sft" / "log.jsonl")[index]["loss"] for path, index in ((out, 0), (tmp_path / "more", 0))
    )
    assert after < before


def test_bad_lines_stop_a_run_or_are_left_out(tmp_path: Path):
    (tmp_path / "chat.jsonl").write_text(CHAT + "{}\n")
    recipe = written(tmp_path, TINY.replace("steps = 3", "steps = 1"))
    with pytest.raises(ValueError, match=r"chat.jsonl, line 2: .*--skip-bad"):
        run(recipe, tmp_path / "out")
    run(recipe, tmp_path / "out", skip_bad=True)
    assert read_log(tmp_path / "out" / "sft" / "log.jsonl")[-1]["skipped"] == 1


def test_rates_rise_and_fall_by_their_shape():
    def shares(**given: object) -> list[float]:
        schedule = ScheduleConfig(warmup_steps=10, min_lr_ratio=0.1, **given)  # type: ignore[arg-type]
        return [lr_multiplier(schedule, step, 110) for step in range(110)]

    for shape in ("constant", "cosine", "linear", "wsd"):
        found = shares(shape=shape)
        assert found[:10] == pytest.approx([0.1 * (i + 1) for i in range(10)])
        assert found[10] == 1
        assert found[-1] == pytest.approx(1.0 if shape == "constant" else 0.1)
        assert all(a >= b for a, b in pairwise(found[10:]))
    assert shares(shape="cosine")[59] == pytest.approx(0.55, abs=0.02)
    assert shares(shape="linear")[59] == pytest.approx(0.55, abs=0.01)
    held = shares(shape="wsd", decay_ratio=0.2)
    assert held[86] == 1 > held[89]
    assert held[98] == pytest.approx(0.55, abs=0.01)
