"""The display of 60 pages equals that of gpt-oss's own browser tool, byte for byte, at every call.

The answers in tests/data were recorded from that tool. Chosen differences are listed here and in docs/tools.md.
"""

import asyncio
import json
import lzma
from pathlib import Path
from typing import Any

import pytest

from ossia.tools.browser.search import Hit
from tests.support.browsing import FakeWeb, browser

DATA = Path(__file__).parents[2] / "data" / "browser_golden.jsonl.xz"
CASES: list[dict[str, Any]] = [json.loads(line) for line in lzma.decompress(DATA.read_bytes()).splitlines()]

# An image or a link directly after a formula: the recorded tool drops it together with the formula. We keep it.
AFTER_A_FORMULA = {39: "[Image 0]"}


def answers(case: dict[str, Any]) -> list[str]:
    hits = [Hit(each["title"], each["url"], each["summary"]) for each in case["hits"]]
    session = browser(FakeWeb({case["url"]: case["html"]}, hits))

    async def run() -> list[str]:
        return [(await session.run(step["call"], json.dumps(step["args"]))).text for step in case["steps"]]

    return asyncio.run(run())


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"page {case['id']}")
def test_every_answer_equals_the_recorded_one(case: dict[str, Any]):
    if case["id"] in AFTER_A_FORMULA:
        pytest.skip("a chosen difference, see the next test")
    for step, answer in zip(case["steps"], answers(case), strict=True):
        assert answer == step["result"], step


@pytest.mark.parametrize(
    "case", [case for case in CASES if case["id"] in AFTER_A_FORMULA], ids=lambda case: f"page {case['id']}"
)
def test_content_after_a_formula_is_the_only_difference(case: dict[str, Any]):
    kept = AFTER_A_FORMULA[case["id"]]
    for step, answer in list(zip(case["steps"], answers(case), strict=True))[:2]:
        assert [line for line in lines(answer) if line != kept] == lines(step["result"])
        assert (kept in lines(answer)) == (step["call"] == "open")


def lines(answer: str) -> list[str]:
    """The lines that are not blank, without their numbers."""
    body = answer.partition("\n\n")[2]
    return [text.rstrip() for line in body.splitlines() if (text := line.partition(": ")[2]).strip()]
