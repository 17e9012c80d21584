"""The page of evals says for every benchmark how comparable it is, in the words of the reports."""

import re
from pathlib import Path

import pytest

from ossia.evals.catalogue import benchmarks

DOCS = Path(__file__).parents[2] / "docs"


def rows(page: str) -> dict[str, str]:
    table = re.search(r"\|---\|---\|\n((?:\| `\w+` \| .*\|\n)+)\n### ", (DOCS / page).read_text("utf-8"))
    assert table, f"{page} has a table of benchmarks"
    return dict(re.findall(r"\| `(\w+)` \| (.*) \|", table[1]))


def test_the_page_has_the_sentence_of_each_benchmark():
    assert rows("evals.md") == {each.name: each.comparable for each in benchmarks()}


@pytest.mark.parametrize("page", ["evals.ja.md"])
def test_the_page_in_japanese_has_the_same_benchmarks(page: str):
    assert list(rows(page)) == list(rows("evals.md"))
