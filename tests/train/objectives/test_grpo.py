"""Reinforcement learning: rollouts as inference makes them, honest log-probabilities, and a reward that rises."""

import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from ossia.chat import TurnOptions, converse
from ossia.engine.request import ContextError, SamplingParams
from ossia.harmony.grammar import GrammarCache
from ossia.harmony.messages import Developer, ToolNamespace, developer, system, user
from ossia.harmony.parse import End
from ossia.harmony.render import render
from ossia.model.checkpoint import open_checkpoint, write_checkpoint
from ossia.model.synthetic import RandomTensors
from ossia.rollout import RolloutRequest, roll_out
from ossia.task import tasks_of
from ossia.tokenizer.tokenizer_json import write_tokenizer_json
from ossia.tools.functions import function_tool
from ossia.train.data.graded import expert
from ossia.train.data.sequences import NONE
from ossia.train.loop.metrics import read_log
from ossia.train.loop.trainer import Trainer
from ossia.train.model.ops import TrainingOps
from ossia.train.model.trainable import TrainableModel
from ossia.train.objectives.grpo import GapError, GrpoBatch, GrpoObjective, advantages, reward
from ossia.train.peft.format import read_adapter
from ossia.train.recipe import CheckpointConfig, GrpoConfig, LengthPenalty, Lora, OptimizerConfig, ScheduleConfig
from ossia.train.run import run
from tests.support.training import CONFIG, LETTERS, Letters
from tests.support.vocabularies import small, small_vocabulary

STOPS = frozenset(small().special[name] for name in ("<|return|>", "<|call|>"))
GIVEN = {
    "tasks": ("tests.support.training:LETTERS",), "steps": 3, "prompts_per_step": 4, "group_size": 4, "max_tokens": 16, "batch_tokens": 800,
    "optimizer": OptimizerConfig(lr=1e-2, weight_decay=0.0), "schedule": ScheduleConfig(shape="constant", warmup_steps=1),
}  # fmt: skip


def work(**given: object) -> GrpoObjective:
    torch.manual_seed(0)
    return GrpoObjective(TrainableModel.random(CONFIG, 0), small(), [LETTERS], GrpoConfig(**{**GIVEN, **given}), seed=1)  # type: ignore[arg-type]


def add(a: int, b: int) -> int:
    """Add."""
    return a + b


def test_many_rollouts_together_are_each_what_converse_gives_alone():
    """With a tool that the model must call: schema, masks and all."""
    engine, grammars = work().engine(), GrammarCache(small(), CONFIG.vocab)
    tool = function_tool(add)
    spaces = (ToolNamespace("functions", None, (tool.spec,)),)
    asks = [
        RolloutRequest(
            [system(), developer(Developer(None, spaces)), user(f"{i}?")],
            TurnOptions(
                SamplingParams(seed=i, max_tokens=90, stop_tokens=STOPS), tools=(tool,), tool_choice="required",
                thinking_budget=5, max_steps=2,
            ),
        )
        for i in range(6)
    ]  # fmt: skip
    together = roll_out(engine, grammars, asks, masks=True)
    for ask, rollout in zip(asks, together, strict=True):
        alone = list(converse(engine, grammars, *ask))
        assert [e.message for e in alone if isinstance(e, End)] == [m for m in rollout.turn if m.role == "assistant"]
        assert alone[-1].finish == rollout.finish
        assert alone[-1].usage.output_tokens == sum(len(completion.output) for completion in rollout.completions)
        assert [type(event) for event in rollout.events] == [type(event) for event in alone]
        for completion in rollout.completions:
            assert len(completion.masks) == len(completion.output)
            for token, mask in zip(completion.output, completion.masks):
                assert mask is None or mask[token.token >> 3] >> (token.token & 7) & 1
    assert any(message.role == "tool" for rollout in together for message in rollout.turn)


def test_an_answer_that_outgrows_the_context_by_its_tools_ends_there_and_a_prompt_that_does_not_fit_is_an_error():
    def shout() -> str:
        """Say much."""
        return "a " * CONFIG.max_context

    tool = function_tool(shout)
    spaces = (ToolNamespace("functions", None, (tool.spec,)),)
    params = SamplingParams(seed=1, max_tokens=90, stop_tokens=STOPS)
    how = TurnOptions(params, tools=(tool,), tool_choice="required", thinking_budget=5)
    engine, grammars = work().engine(), GrammarCache(small(), CONFIG.vocab)
    messages = [system(), developer(Developer(None, spaces)), user("Hi")]
    (rollout,) = roll_out(engine, grammars, [RolloutRequest(messages, how)])
    assert rollout.finish == "length"
    assert rollout.usage.output_tokens == sum(len(completion.output) for completion in rollout.completions) > 0
    assert [message.role for message in rollout.turn][-2:] == ["assistant", "tool"]
    with pytest.raises(ContextError):
        roll_out(engine, grammars, [RolloutRequest([user("a " * CONFIG.max_context)], TurnOptions(params))])


def test_what_is_learnt_is_what_was_sampled_behind_the_prompt_of_inference():
    learner = work()
    for answer in learner.answers(0):
        (datum,) = learner.data(answer)
        (completion,) = answer.rollout.completions
        rows = [row for row, target in enumerate(datum.targets) if target != NONE]
        assert datum.tokens[: rows[0] + 1] == completion.prompt
        assert [datum.targets[row] for row in rows] == [each.token for each in completion.output]
        assert datum.logprobs == [each.logprob for each in completion.output]
    prompts = {tuple(answer.rollout.completions[0].prompt) for answer in learner.answers(0)}
    example = next(LETTERS.examples("rl/1/0"))
    assert tuple(render(small(), example.prompt("low"), next_role="assistant")) in prompts


def test_trainer_and_engine_agree_but_for_rounding_and_the_first_update_is_on_policy():
    """Rounded as stored, they differ by the order of sums; unrounded, by a thousand times that."""
    figures = work().step(0, report=True).metrics
    assert figures["logprob_gap"] < 2e-5
    assert figures["max_logprob_gap"] < 5e-4
    assert figures["logprob_gap_unrounded"] > 50 * figures["logprob_gap"]
    assert figures["ratio"] == pytest.approx(1.0, abs=1e-4)
    assert figures["clip_fraction"] == 0


def test_an_engine_with_other_weights_stops_the_training():
    learner, other = work(), work()
    for value in other.model.parameters():
        value.data += 0.03 * torch.randn(value.shape, generator=torch.Generator().manual_seed(1))
    learner.engine = other.engine  # type: ignore[method-assign]
    with pytest.raises(GapError, match="trainer and engine differ by"):
        learner.step(0, report=False)


def test_later_updates_of_one_round_are_off_policy_and_clipped():
    figures = work(updates_per_step=4, batch_tokens=250, prompts_per_step=8).step(0, report=True).metrics
    assert figures["logprob_gap"] < 2e-5
    assert figures["clip_fraction"] > 0


def test_tokens_without_a_choice_have_no_gradient():
    """A mask that leaves one token makes it sure, whatever the network thinks of it."""
    learner = work()
    data = [datum for answer in learner.answers(0) for datum in learner.data(answer)]
    datum = next(each for each in data if each.advantage)
    batch = GrpoBatch([datum], torch.device("cpu"))
    policy = learner.policy(batch, TrainingOps(), "stored")
    sure = [i for i, mask in enumerate(datum.masks) if mask is not None and sum(map(int.bit_count, mask)) == 1]
    assert sure
    assert policy.masked_R[sure].abs().max() < 1e-6
    assert (policy.free_R[sure] < -0.1).all()
    policy.masked_R[sure].sum().backward()
    assert all(not p.grad.abs().max() > 1e-6 for p in learner.model.parameters() if p.grad is not None)


def test_the_reward_of_a_toy_task_rises():
    """Less than half of what random weights say is letters; after a dozen small steps nearly all is."""
    learner = work(steps=12, prompts_per_step=8, group_size=8, max_tokens=12, efforts=("high",))
    rewards = [learner.step(number, report=True).metrics["reward"] for number in range(12)]
    assert np.mean(rewards[:2]) < 0.5
    assert np.mean(rewards[-2:]) > 0.7


class Brief(Letters):
    """Any answer is right."""

    def grade(self, example, turn: Sequence):
        return super().grade(example, turn)._replace(score=1.0)


def test_prices_make_low_effort_short_and_leave_high_as_it_was():
    torch.manual_seed(0)
    given = GrpoConfig(**{**GIVEN, "steps": 14, "prompts_per_step": 8, "group_size": 8, "max_tokens": 24, "efforts": ("low", "high"),
                          "length_penalty": LengthPenalty(low=0.03, medium=0.0, high=0.0)})  # fmt: skip
    learner = GrpoObjective(TrainableModel.random(CONFIG, 0), small(), [Brief()], given, seed=1)
    figures = [learner.step(number, report=True).metrics for number in range(14)]
    first, last = (
        float(np.mean([each["reasoning_tokens_low"] for each in part])) for part in (figures[:3], figures[-3:])
    )
    assert last < 0.5 * first


def adapted(tmp_path: Path, **given: object) -> GrpoObjective:
    """Adapters over a frozen checkpoint, with small random updates."""
    write_checkpoint(tmp_path / "model", CONFIG, RandomTensors(CONFIG, 0), "hf")
    lora = Lora(rank=8)
    model = TrainableModel.with_adapters(open_checkpoint(tmp_path / "model"), CONFIG, lora, dtype=torch.float32)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for name, value in model.trained().items():
            if name.endswith(".b"):
                value.copy_(torch.randn(value.shape, generator=generator) * 0.02)
    settings = GrpoConfig(**{**GIVEN, "lora": lora, **given})  # type: ignore[arg-type]
    return GrpoObjective(model, small(), [LETTERS], settings, seed=1)


def test_through_adapters_trainer_and_engine_agree_and_the_base_stays(tmp_path: Path):
    learner = adapted(tmp_path)
    before = {name: value.detach().clone() for name, value in learner.model.named_parameters()}
    figures = learner.step(0, report=True).metrics
    assert figures["logprob_gap"] < 2e-5
    assert figures["max_logprob_gap"] < 5e-4
    changed = {name for name, value in learner.model.named_parameters() if not torch.equal(value, before[name])}
    assert changed
    assert all(".adapters." in name for name in changed)


def test_the_reward_of_a_toy_task_rises_through_adapters(tmp_path: Path):
    rate = OptimizerConfig(lr=3e-2, weight_decay=0.0)
    learner = adapted(
        tmp_path, steps=14, prompts_per_step=8, group_size=8, max_tokens=12, efforts=("high",), optimizer=rate
    )
    rewards = [learner.step(number, report=True).metrics["reward"] for number in range(14)]
    assert np.mean(rewards[-3:]) > np.mean(rewards[:2]) + 0.15


def test_a_recipe_reinforces_adapters_over_a_checkpoint(tmp_path: Path):
    """The adapter is PEFT's format; the log has the gap between trainer and engine."""
    write_checkpoint(tmp_path / "model", CONFIG, RandomTensors(CONFIG, 0), "hf")
    write_tokenizer_json(tmp_path / "model" / "tokenizer.json", small_vocabulary())
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(f"""
start = "{tmp_path / "model"}"
[checkpoint]
log_every = 1
plot = false
[rl]
tasks = ["tests.support.training:LETTERS"]
steps = 2
prompts_per_step = 4
group_size = 4
max_tokens = 12
batch_tokens = 800
[rl.lora]
rank = 4
targets = ["self_attn.*", "mlp.experts.*"]
""")
    made = run(recipe, tmp_path / "out")
    assert made == tmp_path / "out" / "adapter"
    assert read_adapter(made, CONFIG).lora.rank == 4
    gaps = [row["logprob_gap"] for row in read_log(tmp_path / "out" / "rl" / "log.jsonl") if "logprob_gap" in row]
    assert gaps
    assert max(gaps) < 2e-5


@pytest.mark.parametrize("bad", [{"router_aux_loss_coef": 0.1}, {"optimizer": OptimizerConfig(kind="muon")}])
def test_what_adapters_cannot_have_is_refused(bad: dict[str, object]):
    with pytest.raises(ValueError, match=r"rl\.lora"):
        GrpoConfig(**{**GIVEN, "lora": Lora(), **bad})  # type: ignore[arg-type]


def test_advantages_are_against_the_groups_mean():
    assert advantages([1, 0, 0, 1], scale=False) == [0.5, -0.5, -0.5, 0.5]
    assert advantages([1, 0, 0, 1], scale=True) == [1, -1, -1, 1]
    assert advantages([0.3, 0.3, 0.3], scale=True) == [0, 0, 0]


def test_thinking_costs_by_effort_and_never_more_than_being_right_is_worth():
    prices = LengthPenalty(low=0.01, medium=0.002, high=0.0, max_penalty=0.4)
    assert reward(1.0, "low", 10, prices) == pytest.approx(0.9)
    assert reward(1.0, "medium", 10, prices) == pytest.approx(0.98)
    assert reward(1.0, "high", 10_000, prices) == 1.0
    assert reward(1.0, "low", 10_000, prices) > reward(0.0, "low", 0, prices)


def test_a_broken_off_run_goes_on_to_the_bit(tmp_path: Path):
    def run(folder: str, until: int | None = None) -> list[float]:
        learner = work()
        loop = Trainer("rl", learner.model, learner, tmp_path / folder, CheckpointConfig(save_every=1, log_every=1))
        loop.run(until)
        return [row["reward"] for row in read_log(tmp_path / folder / "log.jsonl")]

    whole = run("whole")
    run("broken", until=2)
    assert run("broken") == whole
    assert len(whole) == 3


def test_tasks_are_named_alone_several_or_by_a_function():
    assert tasks_of("tests.support.training:LETTERS") == [LETTERS]
    assert tasks_of("tests.train.objectives.test_grpo:several") == [LETTERS, LETTERS]
    assert tasks_of("tests.train.objectives.test_grpo:SEVERAL") == [LETTERS, LETTERS]
    for bad in ("tests.support.training:CONFIG", "tests.support.training:none", "os:path"):
        with pytest.raises(ValueError, match="names no"):
            tasks_of(bad)


SEVERAL = (LETTERS, LETTERS)


def several() -> tuple[Letters, ...]:
    return SEVERAL


def test_an_experts_turns_can_be_learnt():
    make = expert([LETTERS], ("low",))
    assert make(random.Random(1)) == make(random.Random(1)) != make(random.Random(2))
    assert make(random.Random(1))[-1].channel == "final"
