"""The JSON Schema Test Suite: of what compiles, everything that is sampled fits, and nothing that is invalid is allowed."""

import pytest
from benchmarks.schemas import Counts, Player, groups, small, study

from ossia.harmony.grammar import GrammarCache
from tests.support.data_sets import shared
from tests.support.vocabularies import o200k

COMPILE = {("draft7", False): 205, ("draft7", True): 44, ("draft2020-12", False): 265, ("draft2020-12", True): 54}


def play(player: Player, samples: int) -> dict[tuple[str, bool], Counts]:
    suite = shared("json_schema_test_suite")
    table: dict[tuple[str, bool], Counts] = {key: Counts() for key in COMPILE}
    for number, group in enumerate(groups(suite)):
        study(group, player, samples, number, table[group.draft, group.optional], suite)
    return table


@pytest.mark.parametrize("samples", [10, pytest.param(2000, marks=[pytest.mark.slow, pytest.mark.timeout(1200)])])
def test_what_compiles_is_kept_to_and_the_figures_of_the_documentation_are_true(samples: int):
    table = play(Player(GrammarCache(small())), samples)
    assert {key: counts.compiled for key, counts in table.items()} == COMPILE
    for counts in table.values():
        assert counts.wrong == []
        assert (
            counts.judged > 0.9 * samples * counts.compiled or counts.judged + counts.cut == samples * counts.compiled
        )
        assert "" not in counts.refused  # each refusal names its keyword


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_what_compiles_is_kept_to_with_the_vocabulary_of_gpt_oss():
    for counts in play(Player(GrammarCache(o200k())), 20).values():
        assert counts.wrong == []
