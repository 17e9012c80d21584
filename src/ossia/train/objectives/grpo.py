"""Reinforcement learning from graded answers: groups of rollouts, their advantages, the clipped update.

In: a network, tasks, settings. Out: a `Work` for the loop.
It does not know what a task asks, states or logs.

Rollouts are drawn at temperature 1, under the masks of inference, by an engine that holds the weights of this very step;
the trainer computes with the same weights, rounded as they are stored. So their log-probabilities agree but for the order
of sums; a batch of every step is looked at, in float32, and training stops where they do not.
Under torchrun each process answers its share of a step's questions, and all make the same step.
Sources: Shao et al., GRPO, arXiv:2402.03300; Yu et al., DAPO, arXiv:2503.14476 (loss by token, clip higher);
Liu et al., Dr. GRPO, arXiv:2503.20783 (no division by the deviation).
"""

import random
import time
from collections.abc import Iterator
from collections.abc import Sequence as Several
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ossia.chat import TurnOptions
from ossia.engine.engine import Engine
from ossia.engine.request import SamplingParams
from ossia.harmony.grammar import GrammarCache
from ossia.harmony.messages import Effort
from ossia.kernels.backends import make_ops
from ossia.model.transformer import load_transformer
from ossia.rollout import Rollout, RolloutRequest, roll_out
from ossia.tokenizer.tokenizer import Tokenizer
from ossia.train.data.batches import TrainBatch, by_length, pack
from ossia.train.data.graded import GradedTask
from ossia.train.data.sequences import NONE, SampledTurn, joined
from ossia.train.loop.distributed import DistributedContext
from ossia.train.loop.optim import Optimizers, lr_multiplier
from ossia.train.loop.trainer import StepResult
from ossia.train.model.chunked_loss import rows_at_a_time
from ossia.train.model.ops import TrainingOps
from ossia.train.model.stored import MergedTensors, StoredTensors
from ossia.train.model.trainable import Rounding, TrainableModel
from ossia.train.objectives.balance import balance_loss, router_figures
from ossia.train.objectives.prompts import Prompt, PromptSampler
from ossia.train.objectives.supervised import compute_config
from ossia.train.recipe import GrpoConfig, LengthPenalty

STOPS = ("<|return|>", "<|call|>", "<|endoftext|>")
ENGINE_ROWS = 2048  # a step's


class GapError(ValueError):
    """Trainer and engine do not compute the same model: what is learnt would not be what was sampled."""


class GradedRollout(NamedTuple):
    """A rollout with its grade, its reward, and how much better it is than its group's mean."""

    rollout: Rollout
    effort: Effort
    score: float
    reward: float
    advantage: float


class Datum(NamedTuple):
    """A sequence of an answer. For each target: the engine's log-probability, and the mask it was drawn under."""

    tokens: list[int]
    targets: list[int]
    logprobs: list[float]
    masks: list[bytes | None]
    advantage: float


class Policy(NamedTuple):
    """Log-probabilities of a batch's targets: as the model gives them, and among what the mask allowed."""

    free_R: Tensor
    masked_R: Tensor


def reward(score: float, effort: Effort, thinking: int, prices: LengthPenalty) -> float:
    """The grade less the price of the thinking: never so much that a long right answer falls behind a short wrong one."""
    return score - min(prices.of(effort) * thinking, prices.most)


def advantages(rewards: Several[float], by_deviation: bool) -> list[float]:
    """Each against the mean of its group; none where all are alike."""
    values = np.array(rewards)
    over = values - values.mean()
    deviation = float(values.std())
    if deviation < 1e-9:
        return [0.0] * len(rewards)
    return [float(each) for each in (over / deviation if by_deviation else over)]


class GrpoObjective:
    """A `Work`: sample groups, grade them, move towards what was better than its group.

    Raises ValueError where a step's prompts cannot be shared out evenly among the processes.
    """

    def __init__(
        self, model: TrainableModel, tokenizer: Tokenizer, tasks: Several[GradedTask], settings: GrpoConfig, seed: int,
        processes: DistributedContext | None = None,
    ) -> None:  # fmt: skip
        self._processes = processes or DistributedContext()
        if settings.prompts % (size := self._processes.size):
            raise ValueError(
                f"prompts = {settings.prompts} cannot be shared evenly by {size} processes: take a multiple of {size}"
            )
        self._model, self._settings, self._seed = model, settings, seed
        self._questions = PromptSampler(tasks, settings, seed, self._processes)
        self._grammars = GrammarCache(tokenizer, model.config.vocab)
        self._stops = frozenset(tokenizer.special[name] for name in STOPS if name in tokenizer.special)
        self.steps = settings.steps
        self._computed = compute_config(settings.precision, settings.compile, model.device)
        self.optimizers = Optimizers(model.trained(), settings.optimizer, self._processes)

    def step(self, number: int, report: bool) -> StepResult:
        started = time.perf_counter()
        answers = self.answers(number)
        figures = self._means(_noted(answers, self._settings.efforts))
        figures["rollout_seconds"] = time.perf_counter() - started
        lessons = [lesson for answer in answers for lesson in self._lessons(answer)]
        kept = [each for each in lessons if each.advantage]
        batches = [_Batch(group, self._model.device) for group in by_length(kept, self._settings.step_tokens)]
        rows = int(self._processes.add(torch.tensor(sum(len(each.packed.batch.tokens_T) for each in batches))))
        if rows:
            random.Random(f"{self._seed}/{number}/order").shuffle(batches)
            if report and batches:
                figures["gap_unrounded"] = self._gap(batches[0], "none")[0]
            figures |= self._learn(batches, number)
        return StepResult(rows, figures if report else {})

    def position(self) -> list[float]:
        """All of a step follows from its number, the weights, and this."""
        return list(self._questions.position)

    def load_state_dict(self, position: list[float]) -> None:
        """Raises ValueError where the state is of another recipe's tasks and efforts."""
        self._questions.load_state_dict(position)

    def answers(self, number: int) -> list[GradedRollout]:
        """This process's of the step's questions, each answered by a group and graded."""
        questions = self._questions.of_step(number)
        settings = self._settings
        rng = random.Random(f"{self._seed}/{number}/sampling")
        seeds = [[rng.getrandbits(48) for _ in range(settings.group)] for _ in questions]
        own = slice(self._processes.rank, None, self._processes.size)
        questions = questions[own]
        asks = [self._ask(question, seed) for question, group in zip(questions, seeds[own]) for seed in group]
        rollouts = roll_out(self._engine(), self._grammars, asks, masks=True)
        answers: list[GradedRollout] = []
        differed: list[bool] = []
        for i, question in enumerate(questions):
            group = rollouts[i * settings.group : (i + 1) * settings.group]
            scores = [float(question.task.grade(question.example, each.turn).score) for each in group]
            differed.append(len(set(scores)) > 1)
            rewards = [
                reward(score, question.effort, each.usage.reasoning_tokens, settings.prices)
                for score, each in zip(scores, group)
            ]
            over = advantages(rewards, settings.divide_by_deviation)
            answers += [GradedRollout(a, question.effort, b, c, d) for a, b, c, d in zip(group, scores, rewards, over)]
        self._questions.note(zip(questions, differed))
        return answers

    def _ask(self, question: Prompt, seed: int) -> RolloutRequest:
        settings, example = self._settings, question.example
        params = SamplingParams(seed=seed, max_tokens=settings.most_tokens, stop_tokens=self._stops)
        how = TurnOptions(
            params=params,
            tools=question.task.tools(example),
            response_format=example.response_format,
            max_steps=settings.most_steps,
        )
        return RolloutRequest(example.prompt(question.effort), how)

    def _engine(self) -> Engine:
        """A new one for each step's weights, on the device that trains; its cache holds a group's common prompt once."""
        model = self._model
        tensors = StoredTensors(model) if model.base is None else MergedTensors(model.base, model)
        on_cpu = model.device.type == "cpu"
        backend = make_ops("cpu", dense="bf16", kv="f32") if on_cpu else make_ops("triton", dense="bf16")
        # `load_transformer` reads no more of a checkpoint than these have
        return Engine(load_transformer(cast(Any, tensors), backend), max_batched_tokens=ENGINE_ROWS)

    def _lessons(self, answer: GradedRollout) -> Iterator[Datum]:
        spoken = [each for each in answer.rollout.completions if each.output]
        said = [SampledTurn(s.prompt, [t.token for t in s.output], [True] * len(s.output)) for s in spoken]
        logprobs = [token.logprob for each in spoken for token in each.output]
        masks = [mask for each in spoken for mask in each.masks]
        first = 0
        for sequence in joined(self._grammars.tokenizer, iter(said)):
            # targets stand in the order in which they were sampled
            last = first + sum(target != NONE for target in sequence.targets)
            yield Datum(*sequence, logprobs[first:last], masks[first:last], answer.advantage)
            first = last

    def _learn(self, batches: list["_Batch"], number: int) -> dict[str, float]:
        """One pass over the batches, in `updates` parts; all old log-probabilities are of the weights that sampled."""
        settings, ratios = self._settings, [torch.zeros(0)]
        gap, most = self._gap(batches[0], "stored") if batches else (0.0, 0.0)
        if gap > settings.most_gap:
            raise GapError(
                f"trainer and engine differ by {gap:.2g} in the mean log-probability of a sampled token, more than "
                f"most_gap = {settings.most_gap}: the engine does not hold the weights that are trained"
            )
        if settings.updates > 1:
            for batch in batches:
                with torch.no_grad():
                    batch.old_R = self._policy(batch, self._recording(), "stored").masked_R
        loss, figures, norm = torch.zeros(()), dict[str, float](), torch.zeros(())
        parts = list(_parts(batches, min(settings.updates, self._processes.most(len(batches)))))
        for part in parts:
            tokens = int(self._processes.add(torch.tensor(sum(len(each.packed.targets_R) for each in part))))
            for batch in part:
                recording = self._recording()
                objective, ratio_R = self._objective(batch, recording)
                loss_part = -objective / tokens
                if recording.routings:  # of a trained router
                    share = len(batch.packed.targets_R) / tokens
                    loss_part = settings.balance * share * balance_loss(recording.routings) + loss_part
                    figures = router_figures(recording.routings)
                loss_part.backward()
                loss -= objective.detach().cpu() / tokens / len(parts)
                ratios.append(ratio_R)
            self._processes.add_gradients(self._model.trained().values())
            norm = self.optimizers.step(lr_multiplier(settings.schedule, number, self.steps))
        ratio = torch.cat(ratios)
        clipped = ((ratio < 1 - settings.clip_low) | (ratio > 1 + settings.clip_high)).float()
        of_all = self._processes.add(torch.tensor([float(loss), len(ratio), float(ratio.sum()), float(clipped.sum())]))
        total, count, ratio_sum, clipped_sum = of_all.tolist()
        return figures | {
            "loss": total, "norm": float(norm), "gap": gap, "gap_most": most, "ratio": ratio_sum / count,
            "clipped": clipped_sum / count,
        }  # fmt: skip

    def _means(self, noted: dict[str, list[float]]) -> dict[str, float]:
        """Of the values of all processes; none of what there was nothing of."""
        own = torch.tensor([[sum(values), len(values)] for values in noted.values()], dtype=torch.float64)
        summed = self._processes.add(own).tolist()
        return {name: total / count for name, (total, count) in zip(noted, summed) if count}

    def _recording(self) -> TrainingOps:
        return TrainingOps(str(self._model.device), self._computed)

    def _gap(self, batch: "_Batch", rounding: Rounding) -> tuple[float, float]:
        """The mean and the largest distance from the engine's log-probabilities, in float32 as the engine computes."""
        with torch.no_grad():
            policy = self._policy(batch, TrainingOps(str(self._model.device)), rounding)
        apart_R = (policy.free_R - batch.engine_R).abs()
        return float(apart_R.mean()), float(apart_R.max())

    def _objective(self, batch: "_Batch", recording: TrainingOps) -> tuple[Tensor, Tensor]:
        """The clipped objective's sum over the tokens, and each token's importance ratio."""
        settings = self._settings
        policy = self._policy(batch, recording, "stored")
        ratio_R = torch.exp(policy.masked_R - (policy.masked_R.detach() if batch.old_R is None else batch.old_R))
        over_R = batch.advantages_R
        held_R = ratio_R.clamp(1 - settings.clip_low, 1 + settings.clip_high)
        return torch.minimum(ratio_R * over_R, held_R * over_R).sum(), ratio_R.detach()

    def _policy(self, batch: "_Batch", recording: TrainingOps, rounding: Rounding) -> Policy:
        """Over a large vocabulary the logits exist for a few rows at a time, and again for the gradient."""
        x_RD = self._model.sampled_rows(batch.packed.batch, recording, rounding)
        targets_R = torch.from_numpy(batch.packed.targets_R).to(x_RD.device)

        def some(x_nD: Tensor, rows: slice) -> tuple[Tensor, Tensor]:
            logits_nV = self._model.unembed(x_nD, recording, rounding)
            chosen_n = logits_nV.gather(1, targets_R[rows, None])[:, 0]
            allowed_nV = batch.allowed(logits_nV.shape[1], rows).to(logits_nV.device)
            masked_nV = logits_nV.masked_fill(~allowed_nV, -torch.inf)
            return chosen_n - logits_nV.logsumexp(-1), chosen_n - masked_nV.logsumexp(-1)

        step = rows_at_a_time(self._model.config.vocab)
        if len(x_RD) <= step:
            return Policy(*some(x_RD, slice(None)))
        pieces = [slice(first, first + step) for first in range(0, len(x_RD), step)]
        parts = [checkpoint(some, x_RD[rows], rows, use_reentrant=False) for rows in pieces]
        return Policy(*(torch.cat(each) for each in zip(*cast(Any, parts))))


class _Batch:
    """Lessons packed, with what belongs to each target.

    old_R: the policy that sampled, noted before the weights change; None where they have not when it is learnt from.
    """

    def __init__(self, lessons: Several[Datum], device: torch.device) -> None:
        self.packed: TrainBatch = pack(lessons)
        self.engine_R = torch.tensor([value for each in lessons for value in each.logprobs], device=device)
        self.advantages_R = torch.tensor([each.advantage for each in lessons for _ in each.logprobs], device=device)
        self._masks = [mask for each in lessons for mask in each.masks]
        self.old_R: Tensor | None = None

    def allowed(self, vocab: int, rows: slice) -> Tensor:
        """[n, V]: what each target of these rows could have been."""
        masks = self._masks[rows]
        allowed_nV = np.ones((len(masks), vocab), bool)
        for row, mask in enumerate(masks):
            if mask is not None:
                bits = np.unpackbits(np.frombuffer(mask, np.uint8), bitorder="little", count=min(vocab, 8 * len(mask)))
                allowed_nV[row, : len(bits)] = bits
                allowed_nV[row, len(bits) :] = False
        return torch.from_numpy(allowed_nV)


def _parts(batches: list[_Batch], count: int) -> Iterator[list[_Batch]]:
    """As even as they go; some are empty where there are not so many batches."""
    for i in range(count):
        yield batches[i * len(batches) // count : (i + 1) * len(batches) // count]


def _noted(answers: Several[GradedRollout], efforts: Several[Effort]) -> dict[str, list[float]]:
    """A value of each answer; right and thinking by effort too."""
    noted = {
        "reward": [each.reward for each in answers],
        "right": [each.score for each in answers],
        "even": [float(each.advantage == 0) for each in answers],
        "cut": [float(each.rollout.finish == "length") for each in answers],
        "tokens": [float(each.rollout.usage.output_tokens) for each in answers],
    }
    for effort in efforts:
        own = [each for each in answers if each.effort == effort]
        noted[f"right_{effort}"] = [each.score for each in own]
        noted[f"thinking_{effort}"] = [float(each.rollout.usage.reasoning_tokens) for each in own]
    return noted
