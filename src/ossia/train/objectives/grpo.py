"""Reinforcement learning from graded answers (GRPO): groups of rollouts, their advantages, the clipped update.

Input: a model, tasks, settings. Output: an `Objective` for the training loop.

The engine samples rollouts at temperature 1, with inference's token masks and this step's weights. The trainer computes
with the same weights, rounded as they are stored. Log-probabilities then differ only by the order of sums. One batch of
each step is checked in float32; training stops if they differ by more than `max_logprob_gap`.
Under torchrun each process answers a part of a step's prompts, and all take the same optimizer steps.
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
from ossia.train.objectives.balance import load_balancing_loss, router_metrics
from ossia.train.objectives.prompts import Prompt, PromptSampler
from ossia.train.objectives.supervised import compute_config
from ossia.train.recipe import GrpoConfig, LengthPenalty

STOP_TOKENS = ("<|return|>", "<|call|>", "<|endoftext|>")
ENGINE_BATCHED_TOKENS = 2048


class GapError(ValueError):
    """Trainer and engine compute different log-probabilities, so the policy gradient would be wrong."""


class GradedRollout(NamedTuple):
    """A rollout with its grade, its reward, and its advantage over the mean of its group."""

    rollout: Rollout
    effort: Effort
    score: float
    reward: float
    advantage: float


class Datum(NamedTuple):
    """A sequence of an answer. For each target: the engine's log-probability, and the token mask (None: no mask)."""

    tokens: list[int]
    targets: list[int]
    logprobs: list[float]
    masks: list[bytes | None]
    advantage: float


class Policy(NamedTuple):
    """Log-probabilities of a batch's targets: over all tokens, and over those that the mask allowed."""

    free_R: Tensor
    masked_R: Tensor


def reward(score: float, effort: Effort, reasoning_tokens: int, penalty: LengthPenalty) -> float:
    """The grade minus the length penalty, which has a limit: a long correct answer stays above a short wrong one."""
    return score - min(penalty.of(effort) * reasoning_tokens, penalty.max_penalty)


def advantages(rewards: Several[float], scale: bool) -> list[float]:
    """Rewards minus the mean of the group, divided by its standard deviation if `scale`. Zeros if all are equal."""
    values = np.array(rewards)
    centred = values - values.mean()
    deviation = float(values.std())
    if deviation < 1e-9:
        return [0.0] * len(rewards)
    return [float(each) for each in (centred / deviation if scale else centred)]


class GrpoObjective:
    """Sample groups of answers, grade them, and raise the probability of those above their group's mean.

    Raises ValueError if the prompts of a step are not a multiple of the number of processes.
    """

    def __init__(
        self, model: TrainableModel, tokenizer: Tokenizer, tasks: Several[GradedTask], settings: GrpoConfig, seed: int,
        processes: DistributedContext | None = None,
    ) -> None:  # fmt: skip
        self._processes = processes or DistributedContext()
        if settings.prompts_per_step % (size := self._processes.world_size):
            raise ValueError(
                f"prompts_per_step = {settings.prompts_per_step} must be a multiple of the {size} processes"
            )
        self.model, self._settings, self._seed = model, settings, seed
        self._prompts = PromptSampler(tasks, settings, seed, self._processes)
        self._grammars = GrammarCache(tokenizer, model.config.vocab)
        self._stops = frozenset(tokenizer.special[name] for name in STOP_TOKENS if name in tokenizer.special)
        self.steps = settings.steps
        self._compute = compute_config(settings.precision, settings.compile, model.device)
        self.optimizers = Optimizers(model.trained(), settings.optimizer, self._processes)

    def step(self, number: int, report: bool) -> StepResult:
        started = time.perf_counter()
        answers = self.answers(number)
        metrics = self._means(_metrics(answers, self._settings.efforts))
        metrics["rollout_seconds"] = time.perf_counter() - started
        data = [datum for answer in answers for datum in self.data(answer)]
        used = [each for each in data if each.advantage]
        batches = [GrpoBatch(group, self.model.device) for group in by_length(used, self._settings.batch_tokens)]
        tokens = int(self._processes.all_reduce(torch.tensor(sum(len(each.packed.batch.tokens_T) for each in batches))))
        if tokens:
            random.Random(f"{self._seed}/{number}/order").shuffle(batches)
            if report and batches:
                metrics["logprob_gap_unrounded"] = self._logprob_gap(batches[0], "none")[0]
            metrics |= self._update(batches, number)
        return StepResult(tokens, metrics if report else {})

    def state_dict(self) -> list[float]:
        """With the weights and the step's number, this determines the rest of a run."""
        return self._prompts.state_dict()

    def load_state_dict(self, state: list[float]) -> None:
        """Raises ValueError for the state of another recipe's tasks and efforts."""
        self._prompts.load_state_dict(state)

    def answers(self, number: int) -> list[GradedRollout]:
        """This process's part of the step's prompts: for each a group of graded answers."""
        prompts = self._prompts.of_step(number)
        settings = self._settings
        rng = random.Random(f"{self._seed}/{number}/sampling")
        seeds = [[rng.getrandbits(48) for _ in range(settings.group_size)] for _ in prompts]
        own = slice(self._processes.rank, None, self._processes.world_size)
        prompts = prompts[own]
        requests = [self._request(prompt, seed) for prompt, group in zip(prompts, seeds[own]) for seed in group]
        rollouts = roll_out(self.engine(), self._grammars, requests, masks=True)
        answers: list[GradedRollout] = []
        differed: list[bool] = []
        for i, prompt in enumerate(prompts):
            group = rollouts[i * settings.group_size : (i + 1) * settings.group_size]
            scores = [float(prompt.task.grade(prompt.example, each.turn).score) for each in group]
            differed.append(len(set(scores)) > 1)
            rewards = [
                reward(score, prompt.effort, each.usage.reasoning_tokens, settings.length_penalty)
                for score, each in zip(scores, group)
            ]
            graded = zip(group, scores, rewards, advantages(rewards, settings.scale_rewards))
            answers += [GradedRollout(rollout, prompt.effort, *numbers) for rollout, *numbers in graded]
        self._prompts.update(zip(prompts, differed))
        return answers

    def _request(self, prompt: Prompt, seed: int) -> RolloutRequest:
        settings, example = self._settings, prompt.example
        params = SamplingParams(seed=seed, max_tokens=settings.max_tokens, stop_tokens=self._stops)
        options = TurnOptions(
            params=params,
            tools=prompt.task.tools(example),
            response_format=example.response_format,
            max_steps=settings.max_turns,
        )
        return RolloutRequest(example.prompt(prompt.effort), options)

    def engine(self) -> Engine:
        """An engine with this step's weights, on the training device. Its prefix cache holds a group's prompt once."""
        model = self.model
        tensors = StoredTensors(model) if model.base is None else MergedTensors(model.base, model)
        on_cpu = model.device.type == "cpu"
        backend = make_ops("cpu", dense="bf16", kv="f32") if on_cpu else make_ops("triton", dense="bf16")
        # `load_transformer` uses only the methods that both have
        return Engine(load_transformer(cast(Any, tensors), backend), max_batched_tokens=ENGINE_BATCHED_TOKENS)

    def data(self, answer: GradedRollout) -> Iterator[Datum]:
        completions = [each for each in answer.rollout.completions if each.output]
        turns = [SampledTurn(c.prompt, [t.token for t in c.output], [True] * len(c.output)) for c in completions]
        logprobs = [token.logprob for each in completions for token in each.output]
        masks = [mask for each in completions for mask in each.masks]
        first = 0
        for sequence in joined(self._grammars.tokenizer, iter(turns)):
            # targets are in the order in which they were sampled
            last = first + sum(target != NONE for target in sequence.targets)
            yield Datum(*sequence, logprobs[first:last], masks[first:last], answer.advantage)
            first = last

    def _update(self, batches: list["GrpoBatch"], number: int) -> dict[str, float]:
        """One pass over the batches, in `updates_per_step` parts. The old policy is that of the weights that sampled."""
        settings, ratios = self._settings, [torch.zeros(0)]
        gap, largest = self._logprob_gap(batches[0], "stored") if batches else (0.0, 0.0)
        if gap > settings.max_logprob_gap:
            raise GapError(
                f"trainer and engine differ by {gap:.2g} in the mean log-probability of a sampled token, more than "
                f"max_logprob_gap = {settings.max_logprob_gap}: they compute different models; please report this"
            )
        if settings.updates_per_step > 1:
            for batch in batches:
                with torch.no_grad():
                    batch.old_R = self.policy(batch, self._ops(), "stored").masked_R
        loss, metrics, norm = torch.zeros(()), dict[str, float](), torch.zeros(())
        parts = list(_parts(batches, min(settings.updates_per_step, self._processes.all_reduce_max(len(batches)))))
        for part in parts:
            tokens = int(self._processes.all_reduce(torch.tensor(sum(len(each.packed.targets_R) for each in part))))
            for batch in part:
                ops = self._ops()
                objective, ratio_R = self._objective(batch, ops)
                loss_part = -objective / tokens
                if ops.routings:  # only trained routers are recorded
                    share = len(batch.packed.targets_R) / tokens
                    loss_part = settings.router_aux_loss_coef * share * load_balancing_loss(ops.routings) + loss_part
                    metrics = router_metrics(ops.routings)
                loss_part.backward()
                loss -= objective.detach().cpu() / tokens / len(parts)
                ratios.append(ratio_R)
            self._processes.all_reduce_gradients(self.model.trained().values())
            norm = self.optimizers.step(lr_multiplier(settings.schedule, number, self.steps))
        ratio = torch.cat(ratios)
        clipped = ((ratio < 1 - settings.clip_low) | (ratio > 1 + settings.clip_high)).float()
        sums = torch.tensor([float(loss), len(ratio), float(ratio.sum()), float(clipped.sum())])
        total, count, ratio_sum, clipped_sum = self._processes.all_reduce(sums).tolist()
        return metrics | {
            "loss": total, "grad_norm": float(norm), "logprob_gap": gap, "max_logprob_gap": largest,
            "ratio": ratio_sum / count, "clip_fraction": clipped_sum / count,
        }  # fmt: skip

    def _means(self, values_by_name: dict[str, list[float]]) -> dict[str, float]:
        """Means over the values of all processes. Metrics without values are omitted."""
        sums = [[sum(values), len(values)] for values in values_by_name.values()]
        summed = self._processes.all_reduce(torch.tensor(sums, dtype=torch.float64)).tolist()
        return {name: total / count for name, (total, count) in zip(values_by_name, summed) if count}

    def _ops(self) -> TrainingOps:
        return TrainingOps(str(self.model.device), self._compute)

    def _logprob_gap(self, batch: "GrpoBatch", rounding: Rounding) -> tuple[float, float]:
        """Mean and largest difference from the engine's log-probabilities, in float32 as in the engine."""
        with torch.no_grad():
            policy = self.policy(batch, TrainingOps(str(self.model.device)), rounding)
        gap_R = (policy.free_R - batch.engine_R).abs()
        return float(gap_R.mean()), float(gap_R.max())

    def _objective(self, batch: "GrpoBatch", ops: TrainingOps) -> tuple[Tensor, Tensor]:
        """The sum of the clipped objective over the tokens, and each token's importance ratio."""
        settings = self._settings
        policy = self.policy(batch, ops, "stored")
        ratio_R = torch.exp(policy.masked_R - (policy.masked_R.detach() if batch.old_R is None else batch.old_R))
        advantages_R = batch.advantages_R
        clipped_R = ratio_R.clamp(1 - settings.clip_low, 1 + settings.clip_high)
        return torch.minimum(ratio_R * advantages_R, clipped_R * advantages_R).sum(), ratio_R.detach()

    def policy(self, batch: "GrpoBatch", ops: TrainingOps, rounding: Rounding) -> Policy:
        """With a large vocabulary, logits are computed a few rows at a time, and again for the gradient."""
        x_RD = self.model.sampled_rows(batch.packed.batch, ops, rounding)
        targets_R = torch.from_numpy(batch.packed.targets_R).to(x_RD.device)

        def of_rows(x_nD: Tensor, rows: slice) -> tuple[Tensor, Tensor]:
            logits_nV = self.model.unembed(x_nD, ops, rounding)
            chosen_n = logits_nV.gather(1, targets_R[rows, None])[:, 0]
            allowed_nV = batch.allowed(logits_nV.shape[1], rows).to(logits_nV.device)
            masked_nV = logits_nV.masked_fill(~allowed_nV, -torch.inf)
            return chosen_n - logits_nV.logsumexp(-1), chosen_n - masked_nV.logsumexp(-1)

        step = rows_at_a_time(self.model.config.vocab)
        if len(x_RD) <= step:
            return Policy(*of_rows(x_RD, slice(None)))
        pieces = [slice(first, first + step) for first in range(0, len(x_RD), step)]
        parts = [checkpoint(of_rows, x_RD[rows], rows, use_reentrant=False) for rows in pieces]
        return Policy(*(torch.cat(each) for each in zip(*cast(Any, parts))))


class GrpoBatch:
    """Packed data, with the engine's log-probability, the advantage and the mask of each target.

    old_R: log-probabilities of the policy that sampled. None: the weights have not changed since.
    """

    def __init__(self, data: Several[Datum], device: torch.device) -> None:
        self.packed: TrainBatch = pack(data)
        self.engine_R = torch.tensor([value for each in data for value in each.logprobs], device=device)
        self.advantages_R = torch.tensor([each.advantage for each in data for _ in each.logprobs], device=device)
        self._masks = [mask for each in data for mask in each.masks]
        self.old_R: Tensor | None = None

    def allowed(self, vocab: int, rows: slice) -> Tensor:
        """[n, V]: the tokens that the mask of each row allowed."""
        masks = self._masks[rows]
        allowed_nV = np.ones((len(masks), vocab), bool)
        for row, mask in enumerate(masks):
            if mask is not None:
                bits = np.unpackbits(np.frombuffer(mask, np.uint8), bitorder="little", count=min(vocab, 8 * len(mask)))
                allowed_nV[row, : len(bits)] = bits
                allowed_nV[row, len(bits) :] = False
        return torch.from_numpy(allowed_nV)


def _parts(batches: list[GrpoBatch], count: int) -> Iterator[list[GrpoBatch]]:
    """`count` parts of nearly equal size; some are empty if there are fewer batches."""
    for i in range(count):
        yield batches[i * len(batches) // count : (i + 1) * len(batches) // count]


def _metrics(answers: Several[GradedRollout], efforts: Several[Effort]) -> dict[str, list[float]]:
    """A value of each answer, by metric. Accuracy and reasoning tokens also by effort."""
    metrics = {
        "reward": [each.reward for each in answers],
        "accuracy": [each.score for each in answers],
        "zero_variance": [float(each.advantage == 0) for each in answers],
        "truncated": [float(each.rollout.finish == "length") for each in answers],
        "output_tokens": [float(each.rollout.usage.output_tokens) for each in answers],
    }
    for effort in efforts:
        own = [each for each in answers if each.effort == effort]
        metrics[f"accuracy_{effort}"] = [each.score for each in own]
        metrics[f"reasoning_tokens_{effort}"] = [float(each.rollout.usage.reasoning_tokens) for each in own]
    return metrics
