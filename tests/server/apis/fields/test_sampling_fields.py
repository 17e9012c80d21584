"""Sampling fields of other servers (A3, A3b): honoured on every API that has a place for them."""

from typing import Any

import pytest

from ossia.engine.request import SamplingParams
from tests.support.server import mini, scripted, user
from tests.support.turns import final, think

PENALTIES = {"repetition_penalty": 1.2, "frequency_penalty": 0.5, "presence_penalty": -0.5}
LENGTHS = {"min_tokens": 3, "stop_token_ids": [65]}


def check(params: SamplingParams) -> None:
    assert (params.repetition_penalty, params.frequency_penalty, params.presence_penalty) == (1.2, 0.5, -0.5)
    assert params.min_tokens == 3
    assert 65 in params.stop_tokens


def test_A3b_penalties_reach_the_sampler_from_every_api():
    fields = {**PENALTIES, **LENGTHS}
    with scripted(final("ok"), "ok") as it:
        it.chat(**fields)
        it.complete(prompt="x", **fields)
        for params in it.script.params:
            check(params)
    with scripted(final("ok")) as it:
        it.respond(input="x", **fields)
        check(it.script.params[0])


@pytest.mark.parametrize("field", PENALTIES)
@pytest.mark.parametrize(("path", "body"), [("/v1/completions", {"prompt": "x"}), ("/v1/responses", {"input": "x"})])
def test_A3b_a_penalty_out_of_range_is_named(path: str, body: dict[str, Any], field: str):
    with scripted() as it:
        assert it.refused(path, **body, **{field: -3}) == (400, field, "invalid_value")


def test_A3b_a_strong_penalty_lets_no_token_come_twice():
    with mini() as it:
        fields = {"prompt": "1 2 1 2 1 2", "max_tokens": 12, "temperature": 0, "logprobs": 1}
        plain = it.complete(**fields)["choices"][0]["logprobs"]["tokens"]
        once = it.complete(**fields, frequency_penalty=2, presence_penalty=2, repetition_penalty=100)
    assert len(set(plain)) < len(plain)
    tokens = once["choices"][0]["logprobs"]["tokens"]
    assert len(set(tokens)) == len(tokens)


def test_A3b_the_answer_with_penalties_is_the_same_alone_and_beside_others():
    fields = {"seed": 3, "max_tokens": 60, **PENALTIES}
    with mini() as it:
        alone = it.message("What is 17 + 25?", **fields)
        many = it.chat("What is 17 + 25?", n=4, **fields)["choices"]
    assert many[0]["message"] == alone


def test_A3_ignore_eos_goes_on_to_the_token_limit():
    with mini() as it:
        for answer in (
            it.chat("What is 1 + 1?", max_tokens=400, ignore_eos=True),
            it.complete(prompt="x", max_tokens=40, ignore_eos=True),
        ):
            assert answer["choices"][0]["finish_reason"] == "length"
            assert answer["usage"]["completion_tokens"] in (40, 400)


def test_A3_a_stop_token_of_the_request_ends_the_answer_and_is_no_text():
    with mini() as it:
        (stop,) = it.service.tokenizer.encode("2")
        answer = it.chat("What is 17 + 25?", temperature=0, reasoning={"max_tokens": 0})["choices"][0]
        cut = it.chat("What is 17 + 25?", temperature=0, reasoning={"max_tokens": 0}, stop_token_ids=[stop])["choices"][
            0
        ]
    assert "2" in answer["message"]["content"]
    assert cut["message"]["content"] == answer["message"]["content"].partition("2")[0]
    assert cut["finish_reason"] == "stop"


def test_a_penalty_of_null_or_nothing_changes_nothing():
    with scripted(final("ok"), think("x") + final("ok")) as it:
        it.chat(messages=[user("x")], repetition_penalty=None, frequency_penalty=0)
        assert not it.script.params[0].penalizes
