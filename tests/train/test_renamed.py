"""Old names in recipes and logs: each still works, warns with the new name, and never hides a conflict."""

import dataclasses
import tomllib
import warnings
from pathlib import Path
from typing import Any

import pytest

from ossia.task import named
from ossia.train import recipe as recipes
from ossia.train.loop.metrics import read_log
from ossia.train.recipe import LengthPenalty, OptimizerConfig, Recipe, ScheduleConfig, read_recipe
from ossia.train.renamed import KEYS, METRICS, MODULES, with_new_names

OLD = """
start = "ossia-mini"
[keep]
log_every = 1
[sft]
steps = 2
step_tokens = 700
round_batches = 2
longest = 512
balance = 0.02
[[sft.data]]
generator = "ossia.train.drills:drill"
[sft.optimizer]
rate = 1e-3
muon_rate = 2e-3
sharpness_rate = 3e-3
clip = 0.5
[sft.schedule]
warmup = 3
shape = "wsd"
final = 0.1
decay = 0.3
[rl]
tasks = ["ossia.tasks.calls:TASKS"]
steps = 3
prompts = 4
group = 5
updates = 2
focus = 0.9
most_tokens = 60
most_steps = 2
divide_by_deviation = true
most_gap = 0.1
step_tokens = 800
balance = 0.01
[rl.prices]
low = 0.01
most = 0.4
"""
NEW = """
start = "ossia-mini"
[checkpoint]
log_every = 1
[sft]
steps = 2
batch_tokens = 700
bucket_batches = 2
max_seq_len = 512
router_aux_loss_coef = 0.02
[[sft.data]]
generator = "ossia.mini.curriculum.drills:drill"
[sft.optimizer]
lr = 1e-3
muon_lr = 2e-3
logit_scale_lr = 3e-3
max_grad_norm = 0.5
[sft.schedule]
warmup_steps = 3
shape = "wsd"
min_lr_ratio = 0.1
decay_ratio = 0.3
[rl]
tasks = ["ossia.mini.tasks.calls:TASKS"]
steps = 3
prompts_per_step = 4
group_size = 5
updates_per_step = 2
curriculum = 0.9
max_tokens = 60
max_turns = 2
scale_rewards = true
max_logprob_gap = 0.1
batch_tokens = 800
router_aux_loss_coef = 0.01
[rl.length_penalty]
low = 0.01
max_penalty = 0.4
"""


def written(folder: Path, text: str) -> Path:
    path = folder / "recipe.toml"
    path.write_text(text)
    return path


def test_a_recipe_with_old_names_is_the_same_recipe(tmp_path: Path):
    with pytest.warns(FutureWarning):
        old = read_recipe(written(tmp_path, OLD))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read_recipe(written(tmp_path, NEW)) == old


def test_a_warning_names_the_old_name_its_table_and_the_new_name():
    with pytest.warns(FutureWarning) as said:
        with_new_names(tomllib.loads(OLD))
    messages = [str(each.message) for each in said]
    for expected in (
        "the recipe: 'keep' is now 'checkpoint'",
        "[sft]: 'step_tokens' is now 'batch_tokens'",
        "[sft.optimizer]: 'rate' is now 'lr'",
        "[rl.length_penalty]: 'most' is now 'max_penalty'",
        "[rl] tasks: module 'ossia.tasks.calls' is now 'ossia.mini.tasks.calls'",
        "[sft.data] generator: module 'ossia.train.drills' is now 'ossia.mini.curriculum.drills'",
    ):
        assert sum(each.startswith(expected) for each in messages) == 1, expected


@pytest.mark.parametrize(
    ("table", "old", "new"), [(t, old, new) for t, keys in KEYS.items() for old, new in keys.items()]
)
def test_an_old_name_and_its_new_name_together_are_an_error(table: str, old: str, new: str):
    raw: dict[str, Any] = {old: 1, new: 1}
    with pytest.raises(ValueError, match=f"has both '{old}' and '{new}', which replaces it: remove '{old}'"):
        with_new_names({table: raw} if table else raw)


def test_every_new_name_is_a_field_and_no_old_one_is():
    kinds = {
        "": Recipe, "pretrain": recipes.SupervisedConfig, "sft": recipes.SupervisedConfig, "lora": recipes.LoraConfig,
        "rl": recipes.GrpoConfig, "length_penalty": LengthPenalty, "optimizer": OptimizerConfig,
        "schedule": ScheduleConfig,
    }  # fmt: skip
    for table, keys in KEYS.items():
        fields = {field.name for field in dataclasses.fields(kinds[table])}
        assert set(keys.values()) <= fields
        assert not keys.keys() & fields


def test_every_new_module_exists():
    for module in MODULES.values():
        assert named(f"{module}:__name__") == module


def test_metrics_of_an_old_log_have_new_names(tmp_path: Path):
    (tmp_path / "log.jsonl").write_text('{"step": 1, "loss": 2.0, "right_low": 0.5, "tokens_a_second": 9}\n')
    expected = {"step": 1, "loss": 2.0, "accuracy_low": 0.5, "tokens_per_second": 9}
    assert read_log(tmp_path / "log.jsonl") == [expected]
    assert not METRICS.keys() & set(METRICS.values())
