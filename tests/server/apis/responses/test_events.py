"""Whatever the model says, well-formed or not, the events are what openai's types say and add up to the response."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ossia.chat import Done, Event, Logprobs, Usage
from ossia.engine.request import Sampled
from ossia.harmony.client_tools import toolbox
from ossia.harmony.messages import Message
from ossia.harmony.parse import Delta, End, Parser, Start
from ossia.server.apis.responses import wire
from ossia.server.apis.responses.output.builder import OutputOptions, ResponseBuilder
from ossia.server.apis.responses.output.item_writers import ReasoningForm, condensed
from ossia.server.http.decoding.json_codec import encode
from tests.support.responses import EVENT, checked, fold
from tests.support.vocabularies import small

BOX = toolbox([{"type": "function", "name": "f"}, {"type": "custom", "name": "c"}])


def shell(status: wire.Status = "in_progress") -> wire.Response:
    return wire.Response(id="resp_1", created_at=1, status=status, model="m")


def told(builder: ResponseBuilder, events: list[Event]) -> list[dict[str, Any]]:
    """Each event as it is sent, at once: later changes must not reach back."""
    return [json.loads(encode(each)) for event in events for each in builder.add(event)]


def message(
    channel: str | None, recipient: str | None, parts: list[str], role: Any = "assistant", flaws: tuple[str, ...] = ()
) -> list[Event]:
    deltas: list[Event] = [Delta(channel, recipient, part) for part in parts]
    end = End(Message(role, ("".join(parts),), channel=channel, recipient=recipient, flaws=flaws))
    return [Start(role, channel, recipient, None), *deltas, end]


def check(events: list[dict[str, Any]], builder: ResponseBuilder) -> list[dict[str, Any]]:
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    for event in events:
        assert EVENT.validate_python(event).type == event["type"]
    response = checked(json.loads(encode(builder.response)))
    assert events[-1]["response"] == response
    assert fold(events) == response["output"]
    return response["output"]


def text_of(item: dict[str, Any]) -> str:
    return item.get("arguments") or item.get("input") or "".join(part["text"] for part in item.get("content", ()))


CHANNELS = st.sampled_from(["analysis", "commentary", "final", None, "odd"])
RECIPIENTS = st.sampled_from([None, None, "functions.f", "functions.c", "functions.gone", "python", "<|x|>"])
PIECES = st.lists(st.text(min_size=1, max_size=8) | st.sampled_from(['{"input"', ': "a\\', 'n"', "}"]), max_size=5)
MESSAGES = st.builds(
    message,
    CHANNELS,
    RECIPIENTS,
    PIECES,
    st.sampled_from(["assistant", "assistant", "user", "tool"]),
    st.sampled_from([(), ("unterminated",), ("odd",)]),
)
ENDS = st.sampled_from(["stop", "length", "tool_calls", "fail", "cancel"])


@given(
    st.lists(MESSAGES, max_size=5),
    MESSAGES,
    st.integers(0, 4),
    ENDS,
    st.sampled_from([None, "copied", "condensed"]),
    st.booleans(),
)
@settings(deadline=None)
def test_events_add_up_to_the_response_and_no_word_is_lost(
    whole: list[list[Event]], cut: list[Event], cut_at: int, end: Any, summary: Any, sealed: bool
):
    builder = ResponseBuilder(
        shell(), OutputOptions(BOX, ReasoningForm(encrypt=str.upper if sealed else None, summary=summary))
    )
    said = [event for each in whole for event in each] + cut[: min(cut_at, len(cut) - 1)]
    events = [json.loads(encode(event)) for event in builder.open()] + told(builder, said)
    if end in ("fail", "cancel"):
        last = builder.fail("server_error", "broke") if end == "fail" else builder.cancel()
        events += [json.loads(encode(event)) for event in last]
    else:
        events += told(builder, [Done(end, Usage(7, 5, 2, 3))])
    output = check(events, builder)
    spoken = ["".join(event.text for event in said if isinstance(event, Delta) and event.recipient != "functions.c")]
    kept = [text_of(item) for item in output if item["type"] != "custom_tool_call"]
    strangers = [each for each in said if isinstance(each, Delta) and each.recipient == "functions.c"]
    if not strangers:
        assert "".join(kept) == spoken[0]
    assert all(item["status"] != "in_progress" for item in output)
    wanted = {
        "stop": "completed",
        "tool_calls": "completed",
        "length": "incomplete",
        "fail": "failed",
        "cancel": "cancelled",
    }
    assert builder.response.status == wanted[end]
    assert len(builder.items) == len(output)


@given(st.lists(st.integers(0, small().size - 1), max_size=60))
@settings(deadline=None)
def test_any_tokens_at_all_give_valid_events(tokens: list[int]):
    parser, builder = Parser(small()), ResponseBuilder(shell(), OutputOptions(BOX))
    events = [json.loads(encode(event)) for event in builder.open()]
    events += told(builder, [event for token in tokens for event in parser.feed(token)] + parser.finish())
    events += told(builder, [Done("length", Usage())])
    check(events, builder)


def test_channels_are_told_apart():
    builder = ResponseBuilder(shell(), OutputOptions(BOX))
    said = [
        *message("analysis", None, ["Hm", "."]),
        *message("commentary", None, ["One moment."]),
        *message("final", None, ["Yes", "!"]),
        *message("commentary", "functions.f", ["{", "}"]),
        *message("commentary", "functions.c", ['{"input": "a', '\\nb"}']),
        *message("odd", "nobody", ["lost?"]),
    ]
    events = told(builder, [*said, Done("tool_calls", Usage(10, 6, 2, 4, 5))])
    thought, preamble, answer, call, custom, odd = builder.response.output
    assert isinstance(thought, wire.ReasoningItem)
    assert [getattr(each, "phase", None) for each in (preamble, answer)] == ["commentary", "final_answer"]
    assert isinstance(call, wire.FunctionCallItem)
    assert (call.name, call.arguments, call.status) == ("f", "{}", "completed")
    assert isinstance(custom, wire.CustomCallItem)
    assert custom.input == "a\nb"
    assert isinstance(odd, wire.OutputMessage)
    assert odd.content[0].text == "lost?"
    assert [event["delta"] for event in events if event["type"] == "response.output_text.delta"] == [
        "One moment.",
        "Yes",
        "!",
        "lost?",
    ]
    assert builder.response.usage == wire.ResponseUsage(10, wire.InputDetails(4, 5), 6, wire.OutputDetails(2), 16)


def test_an_answer_cut_by_length_says_so():
    builder = ResponseBuilder(shell(), OutputOptions(BOX))
    told(builder, message("commentary", "functions.f", ['{"a'], flaws=("unterminated",)))
    (last,) = told(builder, [Done("length", Usage())])
    assert last["type"] == "response.incomplete"
    assert last["response"]["incomplete_details"] == {"reason": "max_output_tokens"}
    assert last["response"]["output"][0]["status"] == "incomplete"


@pytest.mark.parametrize(("kind", "text"), [("copied", "One. Two.\n\nThree?"), ("condensed", "One.\nThree?")])
def test_a_summary_copies_or_condenses_the_thinking(kind: Any, text: str):
    builder = ResponseBuilder(shell(), OutputOptions(BOX, ReasoningForm(summary=kind)))
    events = told(builder, message("analysis", None, ["One. Two.\n", "\nThree?"]))
    deltas = [event["delta"] for event in events if event["type"] == "response.reasoning_summary_text.delta"]
    assert "".join(deltas) == text
    assert events[-1]["item"]["summary"] == [{"type": "summary_text", "text": text}]


@given(st.text())
def test_condensing_makes_nothing_up(thought: str):
    assert all(line.strip() in thought for line in condensed(thought).split("\n"))


def test_sealed_reasoning_stands_beside_the_text():
    builder = ResponseBuilder(shell(), OutputOptions(BOX, ReasoningForm(encrypt=str.upper)))
    events = told(builder, message("analysis", None, ["abc"]))
    assert "encrypted_content" not in events[0]["item"]
    assert events[-1]["item"]["encrypted_content"] == "ABC"


def test_logprobs_stand_at_their_delta_and_part():
    builder = ResponseBuilder(shell(), OutputOptions(BOX, tokenizer=small()))
    a = small().encode("a")[0]
    tokens = (Sampled(a, -0.5, ((a, -0.5), (0, float("-inf")))),)
    events = told(
        builder, [Start("assistant", "final", None, None), Logprobs("final", None, tokens), Delta("final", None, "a")]
    )
    expected = {
        "token": "a",
        "bytes": [97],
        "logprob": -0.5,
        "top_logprobs": [
            {"token": "a", "bytes": [97], "logprob": -0.5},
            {"token": "\0", "bytes": [0], "logprob": -9999.0},
        ],
    }
    assert events[-1]["logprobs"] == [expected]
    done = told(builder, [End(Message("assistant", ("a",), channel="final"))])
    assert done[0]["logprobs"] == done[-1]["item"]["content"][0]["logprobs"] == [expected]


def test_only_what_was_sampled_in_form_is_kept_as_sampled():
    builder = ResponseBuilder(shell(), OutputOptions(BOX))
    good = Message("assistant", ("x",), channel="final", tokens=(1, 2))
    for said in (good, Message("assistant", ("y",), channel="final", flaws=("odd",))):
        told(builder, [Start("assistant", "final", None, None), Delta("final", None, said.text), End(said)])
    assert [item.message for item in builder.items] == [good, None]
