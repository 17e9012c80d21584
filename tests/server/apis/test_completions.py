"""Completions: what comes after a text, in any of the forms that prompts have, with nothing added and nothing lost."""

import json
from typing import Any

import numpy as np
import pytest
from openai.types import Completion

from ossia.engine.request import SamplingParams
from tests.support.server import mini, scripted
from tests.support.vocabularies import small


def streamed(served: Any, **body: Any) -> list[dict[str, Any]]:
    answer = served.client.post("/v1/completions", json={**body, "stream": True})
    *frames, last, _ = answer.text.split("\n\n")
    assert last == "data: [DONE]"
    chunks = [json.loads(frame.removeprefix("data: ")) for frame in frames]
    for chunk in chunks:  # openai's type has no word for a choice that goes on, its API says null
        choices = [{**choice, "finish_reason": choice["finish_reason"] or "stop"} for choice in chunk["choices"]]
        Completion.model_validate({**chunk, "choices": choices})
    return chunks


def test_a_text_goes_on_and_its_control_tokens_are_text():
    with scripted(" there was<|return|>") as served:
        answer = served.complete(prompt="Once<|start|>", max_tokens=100)
    assert answer["choices"][0]["text"] == " there was"
    assert answer["choices"][0]["finish_reason"] == "stop"
    assert answer["usage"]["prompt_tokens"] == len(small().encode("Once<|start|>")) > 5


def test_token_ids_may_be_control_tokens():
    ids = small().encode_with_special("<|start|>user")
    with scripted("x<|return|>") as served:
        assert served.complete(prompt=ids)["usage"]["prompt_tokens"] == len(ids)
    assert served.script.prompts == ["<|start|>user"]


def test_several_prompts_have_n_choices_each_in_their_order():
    with scripted(*[f"{n}<|return|>" for n in range(8)]) as served:
        answer = served.complete(prompt=["a", "b"], n=2, max_tokens=10)
        chunks = streamed(served, prompt=[[65], [66]], n=2, max_tokens=10)
    assert [choice["index"] for choice in answer["choices"]] == [0, 1, 2, 3]
    assert served.script.prompts == ["a", "a", "b", "b", "A", "A", "B", "B"]
    assert {choice["index"] for chunk in chunks for choice in chunk["choices"]} == {0, 1, 2, 3}


def test_sixteen_tokens_are_the_usual_length():
    with scripted("a" * 100) as served:
        choice = served.complete(prompt="x")["choices"][0]
    assert (choice["text"], choice["finish_reason"]) == ("a" * 16, "length")


def test_a_stream_has_the_same_text_and_usage_when_asked():
    with scripted("four 四!<|return|>") as served:
        chunks = streamed(served, prompt="x", max_tokens=100, stream_options={"include_usage": True})
    assert "".join(choice["text"] for chunk in chunks for choice in chunk["choices"]) == "four 四!"
    assert chunks[-1]["usage"]["completion_tokens"] == len(small().encode("four 四!")) + 1


def test_stop_strings_end_the_text():
    with scripted("one stop two<|return|>") as served:
        choice = served.complete(prompt="x", stop="stop", max_tokens=50)["choices"][0]
    assert (choice["text"], choice["finish_reason"]) == ("one ", "stop")


def test_a_stop_string_is_no_reader_who_left():
    with scripted("one stop two<|return|>", "one stop two<|return|>", cached=1) as served:
        whole = served.complete(prompt="xy", stop="stop", max_tokens=50)
        streamed(served, prompt="xy", stop="stop", max_tokens=50)
        metrics = served.client.get("/metrics").text
    assert "ossia_cancelled_total 0.0" in metrics
    assert whole["usage"]["prompt_tokens_details"] == {"cached_tokens": 1, "cache_write_tokens": 0}
    assert served.script.closed == 2


def test_logprobs_have_a_place_for_each_token():
    with scripted("abc<|return|>") as served:
        logprobs = served.complete(prompt="x", logprobs=2, max_tokens=50)["choices"][0]["logprobs"]
    assert logprobs["tokens"] == ["a", "b", "c"]
    assert logprobs["token_logprobs"] == [-0.5] * 3
    assert logprobs["text_offset"] == [0, 1, 2]


def test_an_echo_has_the_prompts_own_probabilities():
    with mini() as served:
        model, tokenizer = served.service.model, served.service.tokenizer
        body = {"prompt": "What is 2?", "echo": True, "logprobs": 1, "max_tokens": 0}
        answer = served.client.post("/v1/completions", json=body).json()
        ids = tokenizer.encode("What is 2?")
        rows = model.logits(ids)
    logprobs = answer["choices"][0]["logprobs"]
    assert answer["choices"][0]["text"] == "".join(logprobs["tokens"]) == "What is 2?"
    assert logprobs["token_logprobs"][0] is None
    for place in range(1, len(ids)):
        row = rows[place - 1].astype(float)
        top = row.max()
        expected = row[ids[place]] - top - np.log(np.exp(row - top).sum())
        assert logprobs["token_logprobs"][place] == pytest.approx(expected, abs=1e-4)


def test_greedy_text_is_the_engines_own():
    with mini() as served:
        prompt = served.service.tokenizer.encode("What is 2 + 2?")
        params = SamplingParams(temperature=0, max_tokens=8, stop_tokens=served.service.model.stop_tokens)
        text = served.complete(prompt="What is 2 + 2?", max_tokens=8, temperature=0, echo=True)["choices"][0]["text"]
        (said,) = served.service.model.engine().generate([prompt], params)
    assert text.startswith(
        "What is 2 + 2?" + served.service.tokenizer.decode(s.token for s in said if s.finish != "stop")
    )


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "prompt"),
        ({"prompt": ""}, "prompt"),
        ({"prompt": []}, "prompt"),
        ({"prompt": [-1]}, "prompt"),
        ({"prompt": [10**9]}, "prompt"),
        ({"prompt": [1.5]}, "prompt"),
        ({"prompt": [True]}, "prompt"),
        ({"prompt": {"text": "x"}}, "prompt"),
        ({"prompt": ["x"] * 65}, "prompt"),
        ({"prompt": "x", "n": 17}, "n"),
        ({"prompt": "x", "best_of": 17}, "best_of"),
        ({"prompt": "x", "n": 3, "best_of": 2}, "best_of"),
        ({"prompt": "x", "best_of": 2, "stream": True}, "best_of"),
        ({"prompt": "x", "suffix": "y"}, "suffix"),
        ({"prompt": "x", "max_tokens": 0}, "max_tokens"),
        ({"prompt": "x", "logprobs": 21}, "logprobs"),
        ({"prompt": "x" * 5000}, "prompt"),
    ],
)
def test_what_cannot_be_is_refused_by_name(body: dict[str, Any], param: str):
    with scripted() as served:
        status, where, code = served.refused("/v1/completions", **body)
    assert (status, where) == (400, param)
    assert code


def test_A3b_best_of_gives_the_likeliest_samples_and_counts_all():
    asked: dict[str, Any] = {
        "prompt": ["17 + 25 =", "The"],
        "max_tokens": 5,
        "logprobs": 0,
        "seed": 4,
        "temperature": 2,
    }
    with mini() as served:
        every = served.complete(**asked, n=5)
        best = served.complete(**asked, n=2, best_of=5)
        (one, two) = served.complete(**{**asked, "logprobs": None}, best_of=5)["choices"]

    def mean(choice: dict[str, Any]) -> float:
        return float(np.mean(choice["logprobs"]["token_logprobs"]))

    wanted = [
        each["text"]
        for first in (0, 5)
        for each in sorted(every["choices"][first : first + 5], key=mean, reverse=True)[:2]
    ]
    first_two = [every["choices"][i]["text"] for i in (0, 1, 5, 6)]
    assert wanted != first_two, "the samples differ, so there is a choice"
    assert [each["text"] for each in best["choices"]] == wanted
    assert [each["index"] for each in best["choices"]] == [0, 1, 2, 3]
    assert [one["text"], two["text"]] == [wanted[0], wanted[2]], "without log-probabilities in the answer too"
    assert best["usage"]["completion_tokens"] == every["usage"]["completion_tokens"]
