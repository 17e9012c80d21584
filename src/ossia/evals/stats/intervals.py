"""The two intervals of a benchmark's score.

In: the scores of every try, by question. Out: 95 % intervals. `same_questions` holds the questions fixed and counts only
the noise of sampling. `sampled_questions` takes the questions as a sample of all such questions.
"""

from collections.abc import Sequence
from math import inf, sqrt
from typing import NamedTuple

import numpy as np

Z_95 = 1.959963984540054  # two-sided 95 % of the normal distribution
CLUSTERS_FOR_EFFECTIVE_SIZE = 100  # below it, an estimated effective size covers less than 95 %
DRAWS = 2000
SEED = 0


class Question(NamedTuple):
    """One question's scores, a try each. Questions of one cluster are not independent."""

    scores: tuple[float, ...]
    cluster: str

    @property
    def mean(self) -> float:
        return sum(self.scores) / len(self.scores)


class Interval(NamedTuple):
    """A 95 % interval."""

    low: float
    high: float


def wilson(points: float, total: float) -> tuple[float, float]:
    """The 95 % confidence interval of a proportion, by Wilson: good for few tries, and near 0 and 1."""
    if total <= 0:
        raise ValueError("no interval without tries")
    share, spread = points / total, Z_95**2 / total
    middle = (share + spread / 2) / (1 + spread)
    half = Z_95 * sqrt(share * (1 - share) / total + spread / (4 * total)) / (1 + spread)
    return max(0.0, middle - half), min(1.0, middle + half)


def mean_of(questions: Sequence[Question]) -> float:
    """The mean of the questions' means."""
    if not questions:
        raise ValueError("no score without questions")
    return sum(question.mean for question in questions) / len(questions)


def sampling_error(questions: Sequence[Question]) -> float | None:
    """The standard error of the mean if the same questions were asked again. None if no question has two tries.

    A question with one try, because others failed, is given the mean variance of the rest.
    """
    variances = [_variance(question.scores) for question in questions if len(question.scores) > 1]
    if not variances:
        return None
    usual = sum(variances) / len(variances)
    parts = [(_variance(q.scores) if len(q.scores) > 1 else usual) / len(q.scores) for q in questions]
    return sqrt(sum(parts)) / len(questions)


def _variance(scores: Sequence[float]) -> float:
    mean = sum(scores) / len(scores)
    return sum((score - mean) ** 2 for score in scores) / (len(scores) - 1)


def same_questions(questions: Sequence[Question]) -> Interval | None:
    """The interval of the score on these very questions. None without repeats. It needs eight or more to cover 95 %."""
    error = sampling_error(questions)
    if error is None:
        return None
    mean = mean_of(questions)
    return Interval(mean - Z_95 * error, mean + Z_95 * error)


def sampled_questions(questions: Sequence[Question], *, binary: bool = True) -> Interval:
    """The interval of the score on all questions of this kind, of which these are a sample.

    binary: scores of 0 and 1. Wilson's interval, on the effective number of tries; below 100 clusters on their number.
    Other scores: percentiles of a bootstrap over clusters.
    """
    if not binary:
        return _bootstrap(questions)
    mean = mean_of(questions)
    clusters = len({question.cluster for question in questions})
    size: float = clusters
    error = clustered_error([(q.mean, q.cluster) for q in questions])
    if clusters >= CLUSTERS_FOR_EFFECTIVE_SIZE and 0 < mean < 1:
        tries = sum(len(question.scores) for question in questions)
        size = min(mean * (1 - mean) / error**2 if error else inf, tries)
    return Interval(*wilson(mean * size, size))


def clustered_error(values: Sequence[tuple[float, str]]) -> float:
    """The standard error of the mean of values, each with its cluster. Infinite for one cluster."""
    mean = sum(value for value, _ in values) / len(values)
    sums: dict[str, float] = {}
    for value, cluster in values:
        sums[cluster] = sums.get(cluster, 0.0) + value - mean
    count = len(sums)
    if count < 2:
        return inf
    return sqrt(count / (count - 1) * sum(each**2 for each in sums.values())) / len(values)


def _bootstrap(questions: Sequence[Question]) -> Interval:
    names = {cluster: number for number, cluster in enumerate(dict.fromkeys(q.cluster for q in questions))}
    points_C, sizes_C = np.zeros(len(names)), np.zeros(len(names))
    for question in questions:
        points_C[names[question.cluster]] += question.mean
        sizes_C[names[question.cluster]] += 1
    chosen = np.random.default_rng(SEED)
    means = np.empty(DRAWS)
    for draw in range(DRAWS):  # one draw at a time: 2,000 times many clusters would take much memory
        drawn_C = chosen.integers(0, len(names), len(names))
        means[draw] = points_C[drawn_C].sum() / sizes_C[drawn_C].sum()
    low, high = np.percentile(means, [2.5, 97.5])
    return Interval(float(low), float(high))
