"""Compares a score with another run's on the same questions, and with a published value.

In: the scores of both runs by question, or a published value. Out: a difference with its interval, or a verdict.
"""

from collections.abc import Mapping, Sequence
from math import sqrt
from typing import Literal, NamedTuple

from ossia.evals.stats.intervals import Z_95, Interval, Question, clustered_error, mean_of, sampling_error

Verdict = Literal["consistent", "not shown to differ", "above", "below"]


class RunDifference(NamedTuple):
    """The first run minus the second, on the questions that both have.

    - sampled: the questions as a sample. same: the same questions; None unless both runs have repeats.
    """

    value: float
    questions: int
    first: float
    second: float
    sampled: Interval
    same: Interval | None

    @property
    def significant(self) -> bool:
        """Whether the interval over questions excludes zero."""
        return self.sampled.low > 0 or self.sampled.high < 0


def paired_difference(first: Mapping[str, Question], second: Mapping[str, Question]) -> RunDifference:
    """The difference of two runs, by question id. Raises ValueError if they share no question."""
    shared = [name for name in first if name in second]
    if not shared:
        raise ValueError("the two runs share no question: compare runs of one benchmark on the same data")
    gaps = [(first[name].mean - second[name].mean, first[name].cluster) for name in shared]
    value = sum(gap for gap, _ in gaps) / len(gaps)
    ours, theirs = [first[name] for name in shared], [second[name] for name in shared]
    errors = sampling_error(ours), sampling_error(theirs)
    same = None
    if errors[0] is not None and errors[1] is not None:
        same = _around(value, sqrt(errors[0] ** 2 + errors[1] ** 2))
    sampled = _around(value, clustered_error(gaps))
    return RunDifference(value, len(shared), mean_of(ours), mean_of(theirs), sampled, same)


def _around(value: float, error: float) -> Interval:
    return Interval(value - Z_95 * error, value + Z_95 * error)


def against_published(questions: Sequence[Question], published: float) -> Verdict:
    """Whether a score agrees with a published one on the same questions.

    Both carry the noise of sampling, and the published repeats are mostly unknown: equal noise is assumed. With one try
    a question, only a bound of that noise is known, so that agreement cannot be shown.
    """
    mean, error = mean_of(questions), sampling_error(questions)
    bound = error if error is not None else sqrt(max(mean * (1 - mean), 0.0) / len(questions))
    gap = mean - published
    if abs(gap) <= Z_95 * sqrt(2) * bound:
        return "not shown to differ" if error is None else "consistent"
    return "above" if gap > 0 else "below"
