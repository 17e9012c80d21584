"""A judge's reply is read exactly or asked for again; a malformed one never gives a verdict."""

import asyncio

import pytest

from ossia.evals.judges.verdicts import JudgeReplyError, criterion_met, three_way, verdict_of
from tests.support.evals import ScriptedJudge

MALFORMED = ["", "I think so", "Absolutely", "A or B", "Because", "D", "{", "[]", "true", '{"criteria_met": "yes"}',
             '{"criteria_met": 1}', '{"criteria_met": null}', "[" * 100_000, '{"criteria_met": tru']  # fmt: skip


@pytest.mark.parametrize("text", MALFORMED)
def test_a_malformed_reply_gives_no_verdict(text: str):
    assert three_way(text) is None
    assert criterion_met(text) is None


def test_clear_replies_are_read():
    assert [three_way(text) for text in ("A", " b.", "**C**", "Incorrect", "A: CORRECT", "Not attempted")] == [
        "correct", "incorrect", "not_attempted", "incorrect", "correct", "not_attempted",
    ]  # fmt: skip
    assert criterion_met('```json\n{"explanation": "x", "criteria_met": false}\n```') is False
    assert criterion_met('{"criteria_met": true}') is True


def test_five_attempts_then_an_error():
    judge = ScriptedJudge(lambda _: "hm")
    with pytest.raises(JudgeReplyError, match="no verdict on"):
        asyncio.run(verdict_of(judge, ("s", 0, ""), "?", three_way))
    assert [attempt for _, attempt in judge.asked] == [0, 1, 2, 3, 4]
    said = iter(["hm", "B"])
    assert asyncio.run(verdict_of(ScriptedJudge(lambda _: next(said)), ("s", 0, ""), "?", three_way)) == "incorrect"
