"""Intervals: closed forms, and simulated coverage."""

import random
from collections.abc import Callable, Sequence
from math import sqrt

import pytest

from ossia.evals.stats.comparison import against_published, paired_difference
from ossia.evals.stats.intervals import (
    Interval,
    Question,
    clustered_error,
    mean_of,
    same_questions,
    sampled_questions,
    sampling_error,
    wilson,
)


def binary(points: int, tries: int, cluster: str = "") -> Question:
    return Question((1.0,) * points + (0.0,) * (tries - points), cluster)


def test_the_sampling_error_is_that_of_each_questions_proportion():
    questions = [binary(4, 8, "a"), binary(8, 8, "b"), binary(2, 8, "c")]
    expected = sqrt(sum(x * (1 - x) / 7 for x in (0.5, 1.0, 0.25))) / 3
    assert sampling_error(questions) == pytest.approx(expected)
    low, high = same_questions(questions) or (0.0, 0.0)
    assert (low + high) / 2 == pytest.approx(mean_of(questions))


def test_one_try_a_question_gives_no_interval_of_the_same_questions():
    assert same_questions([binary(1, 1, "a"), binary(0, 1, "b")]) is None


def test_few_clusters_have_wilsons_interval_on_their_number():
    questions = [binary(8 * (n % 2), 8, str(n)) for n in range(30)]
    assert sampled_questions(questions) == Interval(*wilson(15, 30))


def test_many_single_tries_have_wilsons_interval_nearly():
    questions = [binary(n % 2, 1, str(n)) for n in range(500)]
    assert sampled_questions(questions) == pytest.approx(wilson(250, 500), abs=1e-3)


def test_clusters_of_equal_answers_count_once():
    apart = [(float(n % 2), str(n)) for n in range(200)]
    together = [(float(n // 10 % 2), str(n // 10)) for n in range(200)]
    assert clustered_error(together) == pytest.approx(clustered_error(apart) * sqrt(10), rel=0.05)


def test_all_right_and_all_wrong_have_intervals_inside_the_range():
    for points in (0, 1):
        low, high = sampled_questions([binary(points, 1, str(n)) for n in range(150)])
        assert 0 <= low < high <= 1
        assert high - low == pytest.approx(0.025, abs=0.005)


def test_the_bootstrap_is_the_same_twice_and_near_the_normal_interval():
    rng = random.Random(1)
    questions = [Question((rng.gauss(0.3, 0.2),), str(n)) for n in range(400)]
    low, high = sampled_questions(questions, binary=False)
    assert (low, high) == sampled_questions(questions, binary=False)
    assert high - low == pytest.approx(2 * 1.96 * clustered_error([(q.mean, q.cluster) for q in questions]), rel=0.1)


def test_the_difference_of_two_runs_is_paired():
    first = {str(n): binary(1 if n < 60 else 0, 1, str(n)) for n in range(100)}
    second = {str(n): binary(1 if n < 50 else 0, 1, str(n)) for n in range(100)}
    difference = paired_difference(first, second)
    assert difference.value == pytest.approx(0.1)
    assert difference.significant
    # ten questions changed of a hundred: far less noise than two separate samples have
    assert difference.sampled.high - difference.sampled.low == pytest.approx(2 * 1.96 * 0.3015 / 10, rel=0.01)
    with pytest.raises(ValueError, match="share no question"):
        paired_difference(first, {"other": binary(1, 1)})


def test_a_published_value_is_consistent_within_the_noise_of_both():
    questions = [binary(7, 8, str(n)) for n in range(30)]
    error = sampling_error(questions)
    assert error is not None
    reach = 1.96 * sqrt(2) * error
    assert against_published(questions, 0.875 + 0.99 * reach) == "consistent"
    assert against_published(questions, 0.875 + 1.01 * reach) == "below"
    assert against_published(questions, 0.875 - 1.01 * reach) == "above"
    assert against_published([binary(1, 1), binary(0, 1)], 0.5) == "not shown to differ"


Difficulties = Callable[[random.Random, int], list[float]]


def beta(mean: float, spread: float = 3.0) -> Difficulties:
    """Chances of right answers that differ between questions, around a mean."""
    return lambda rng, count: [rng.betavariate(mean * spread, (1 - mean) * spread) for _ in range(count)]


def tries_of(rng: random.Random, chances: Sequence[float], repeats: int) -> list[Question]:
    return [
        Question(tuple(float(rng.random() < chance) for _ in range(repeats)), str(n))
        for n, chance in enumerate(chances)
    ]


def coverage_same(chances: Sequence[float], repeats: int, runs: int, seed: int = 1) -> float:
    """How often the interval of the same questions holds their true mean."""
    rng = random.Random(seed)
    true = sum(chances) / len(chances)
    held = 0
    for _ in range(runs):
        interval = same_questions(tries_of(rng, chances, repeats))
        held += interval is not None and interval.low <= true <= interval.high
    return held / runs


def coverage_sampled(mean: float, count: int, repeats: int, runs: int, seed: int = 1) -> float:
    """How often the interval over questions holds the mean of all questions."""
    rng = random.Random(seed)
    held = 0
    for _ in range(runs):
        low, high = sampled_questions(tries_of(rng, beta(mean)(rng, count), repeats))
        held += low <= mean <= high
    return held / runs


def test_intervals_cover_the_truth_in_a_small_simulation():
    chances = beta(0.7)(random.Random(3), 60)
    assert 0.91 <= coverage_same(chances, 8, runs=300) <= 0.99
    assert 0.91 <= coverage_sampled(0.7, 120, 2, runs=300) <= 0.99


@pytest.mark.slow
@pytest.mark.parametrize(("mean", "count"), [(0.8, 30), (0.8, 198), (0.6, 198), (0.5, 30)])
def test_the_interval_of_the_same_questions_covers_95_percent(mean: float, count: int):
    chances = beta(mean)(random.Random(5), count)
    assert 0.93 <= coverage_same(chances, 8, runs=4000) <= 0.97


@pytest.mark.slow
@pytest.mark.parametrize(("mean", "count", "repeats"), [(0.9, 500, 1), (0.7, 198, 8), (0.5, 1000, 1), (0.8, 150, 4)])
def test_the_interval_over_questions_covers_95_percent(mean: float, count: int, repeats: int):
    assert 0.93 <= coverage_sampled(mean, count, repeats, runs=4000) <= 0.97


@pytest.mark.slow
@pytest.mark.parametrize("mean", [0.9, 0.6])
def test_few_questions_are_covered_at_least(mean: float):
    assert coverage_sampled(mean, 30, 8, runs=4000) >= 0.94
