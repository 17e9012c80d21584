"""Items become the harmony conversation that they tell of, and what the model said becomes items that tell it again."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ossia.chat import Done, Usage
from ossia.harmony.client_tools import Toolbox, toolbox
from ossia.harmony.messages import Message, assistant, developer, tool, user
from ossia.harmony.parse import Delta, End, Start
from ossia.server.apis.responses import wire
from ossia.server.apis.responses.items import ConversationEntry, messages_of, read_input, truncate
from ossia.server.apis.responses.output.builder import OutputOptions, ResponseBuilder
from ossia.server.apis.responses.requests import entry_of
from ossia.server.errors import ApiError
from ossia.server.state.encrypted_reasoning import DecryptionError

BOX = toolbox(
    [
        {"type": "function", "name": "python", "parameters": None},
        {"type": "namespace", "name": "crm", "tools": [{"type": "function", "name": "find"}]},
        {"type": "custom", "name": "sql"},
    ]
)


def no_seal(_: str) -> str:
    raise DecryptionError("not sealed here")


def said(*items: dict[str, Any] | str, box: Toolbox = BOX, **how: Any) -> list[Message]:
    given = items[0] if isinstance(items[0], str) else list(items)
    return messages_of(read_input(given, []), box, how.pop("unseal", no_seal), **how)  # type: ignore[arg-type]


def refusal_of(*items: dict[str, Any]) -> ApiError:
    with pytest.raises(ApiError) as caught:
        said(*items)
    assert caught.value.status == 400
    return caught.value


CALL = {"type": "function_call", "call_id": "c1", "name": "python", "arguments": '{"a": 1}'}
OUTPUT = {"type": "function_call_output", "call_id": "c1", "output": "2"}
CALLED = assistant('{"a": 1}', "commentary", "functions.client_python", "<|constrain|>json")


def test_a_string_is_what_the_user_says():
    assert said("hi") == [user("hi")]
    assert said("") == [user("")]


def test_messages_with_and_without_type_and_parts():
    assert said(
        {"role": "system", "content": "Be kind."},
        {"role": "developer", "content": [{"type": "input_text", "text": "And brief."}]},
        {"role": "user", "content": [{"type": "input_text", "text": "one"}, {"type": "text", "text": "two"}]},
        {
            "type": "message",
            "role": "assistant",
            "content": [{"type": "output_text", "text": "a", "annotations": []}, {"type": "refusal", "refusal": "b"}],
        },
        {"role": "assistant", "content": "c", "phase": "commentary"},
        {"role": "assistant", "content": None},
        {"role": "assistant", "content": []},
    ) == [
        developer("Be kind."),
        developer("And brief."),
        user("one\ntwo"),
        assistant("a\nb"),
        assistant("c", "commentary"),
    ]


def test_a_call_goes_to_the_alias_and_its_output_comes_from_there():
    assert said(CALL, OUTPUT) == [CALLED, tool("functions.client_python", "2")]


def test_members_of_namespaces_and_custom_tools():
    messages = said(
        {"type": "function_call", "call_id": "1", "name": "find", "namespace": "crm", "arguments": "{}"},
        {"type": "custom_tool_call", "call_id": "2", "name": "sql", "input": 'select "é"'},
        {
            "type": "custom_tool_call_output",
            "call_id": "2",
            "output": [{"type": "input_text", "text": "x"}, {"type": "input_text", "text": "y"}],
        },
        {"type": "function_call_output", "call_id": "1", "output": None},
    )
    assert [message.recipient for message in messages[::2]] == ["functions.crm__find", "functions.sql"]
    assert messages[2].text == '{"input": "select \\"é\\""}'
    assert messages[1::2] == [tool("functions.crm__find", ""), tool("functions.sql", "x\ny")]


def test_thinking_stays_between_calls_and_goes_with_its_answer():
    def thought(text: str) -> dict[str, Any]:
        return {"type": "reasoning", "summary": [], "content": [{"type": "reasoning_text", "text": text}]}

    first = [
        {"role": "user", "content": "1"},
        thought("old"),
        CALL,
        OUTPUT,
        thought("old too"),
        {"role": "assistant", "content": "2"},
    ]
    second = [
        {"role": "user", "content": "3"},
        thought("a"),
        {**CALL, "call_id": "c2"},
        {**OUTPUT, "call_id": "c2"},
        thought("b"),
    ]
    texts = [(message.channel, message.text) for message in said(*first, *second)]
    assert ("analysis", "old") not in texts
    assert ("analysis", "old too") not in texts
    assert texts[-4:] == [("analysis", "a"), ("commentary", '{"a": 1}'), ("commentary", "2"), ("analysis", "b")]


def test_of_a_reasoning_item_the_sealed_text_counts_then_the_content_then_the_summary():
    item = {"type": "reasoning", "id": "rs_1", "summary": [{"type": "summary_text", "text": "short"}]}
    full = {**item, "content": [{"type": "reasoning_text", "text": "a"}, {"type": "reasoning_text", "text": "b"}]}
    sealed = {**full, "encrypted_content": "xyz"}
    assert said(item) == [assistant("short", "analysis")]
    assert said(full) == [assistant("a\nb", "analysis")]
    assert said(sealed, unseal=str.upper) == [assistant("XYZ", "analysis")]
    assert said({"type": "reasoning", "summary": []}) == []


def test_a_seal_that_cannot_be_opened_is_no_fault_where_the_content_came_with_it():
    summary = [{"type": "summary_text", "text": "short"}]
    alone = {"type": "reasoning", "id": "rs_1", "summary": summary, "encrypted_content": "another server's"}
    both = {**alone, "content": [{"type": "reasoning_text", "text": "a"}]}
    asked, answer = {"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}
    assert said(asked, both) == [user("x"), assistant("a", "analysis")]
    for lost in (alone, {**alone, "content": []}, {**alone, "content": None}):
        refused = refusal_of(asked, lost, CALL, OUTPUT)
        assert (refused.param, refused.code) == ("input[1].encrypted_content", "invalid_encrypted_content")
    # thinking that led to an answer is not read again, so it need not be readable
    assert said(asked, alone, answer, asked) == [user("x"), assistant("y", "final"), user("x")]
    assert refusal_of(asked, alone, answer, asked, alone).param == "input[4].encrypted_content"


def test_thinking_that_a_client_dropped_is_recalled():
    sampled = Message(
        "assistant", ('{"a":1}',), channel="commentary", recipient="functions.client_python", tokens=(1, 2)
    )
    remembered = (assistant("so", "analysis"), sampled)
    assert said(CALL, OUTPUT, recall=lambda _: remembered)[:2] == list(remembered)
    own = {"type": "reasoning", "summary": [], "content": [{"type": "reasoning_text", "text": "mine"}]}
    assert said(own, CALL, OUTPUT, recall=lambda _: remembered)[:2] == [assistant("mine", "analysis"), sampled]
    changed = {**CALL, "arguments": '{"a": 2}'}
    assert said(changed, OUTPUT, recall=lambda _: remembered)[0].text == '{"a": 2}'


def test_items_of_unknown_types_are_left_out_with_a_warning():
    warnings: list[str] = []
    entries = read_input([{"type": "image_generation_call", "id": "x"}, {"role": "user", "content": "hi"}], warnings)
    assert [entry.item["type"] for entry in entries] == ["message"]
    assert "input[0]: items of type 'image_generation_call'" in warnings[0]


@pytest.mark.parametrize(
    ("item", "param"),
    [
        ({}, "input[0].type"),
        ({"type": 3}, "input[0].type"),
        ({"role": "robot", "content": "x"}, "input[0].role"),
        ({"role": "user", "content": 7}, "input[0].content"),
        ({"role": "user", "content": [{"type": "input_text", "text": 7}]}, "input[0].content[0].text"),
        ({"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}, "input[0].content[0]"),
        (
            {"role": "user", "content": [{"type": "input_text", "text": ""}, {"type": "input_file", "file_id": "x"}]},
            "input[0].content[1]",
        ),
        ({"type": "function_call_output", "output": ""}, "input[0].call_id"),
        ({"type": "function_call_output", "call_id": "nobody", "output": ""}, "input[0].call_id"),
        ({"type": "item_reference"}, "input[0].id"),
    ],
)
def test_what_cannot_be_read_is_refused_by_its_place(item: dict[str, Any], param: str):
    assert refusal_of(item).param == param


def test_what_is_no_text_has_the_code_that_it_has_in_a_chat():
    assert (
        refusal_of({"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}).code
        == "unsupported_content"
    )


TEXT = st.text(max_size=20)
WORDS = st.text(min_size=1, max_size=20)
SAID = st.one_of(
    st.builds(lambda t: assistant(t, "analysis"), WORDS),
    st.builds(lambda t: assistant(t, "commentary"), WORDS),
    st.builds(lambda t: assistant(t, "commentary", "functions.client_python", "<|constrain|>json"), TEXT),
    st.builds(lambda t: assistant(t, "commentary", "functions.crm__find", "<|constrain|>json"), TEXT),
)


@given(st.lists(SAID, max_size=6), st.none() | WORDS, st.booleans())
def test_messages_to_items_to_messages(spoken: list[Message], final: str | None, kept: bool):
    """What the model said comes back to it the same, be it kept here or given back by a client."""
    spoken = [*spoken, assistant(final)] if final else spoken
    builder = ResponseBuilder(wire.Response(id="r", created_at=0, status="in_progress", model="m"), OutputOptions(BOX))
    for message in spoken:
        builder.add(Start("assistant", message.channel, message.recipient, message.content_type))
        builder.add(Delta(message.channel, message.recipient, message.text))
        builder.add(End(message))
    builder.add(Done("stop", Usage()))
    entries = [entry_of(item, "x") for item in builder.items]
    assert all(entry.item["status"] == "completed" for entry in entries)
    if not kept:
        entries = read_input([entry.item for entry in entries], [])
        assert [entry.item["id"] for entry in entries] == [item.id for item in builder.items]
    expected = [message for message in spoken if not (final and message.channel == "analysis")]
    if not kept:  # a client that gives back a call without arguments means an empty object
        expected = [
            replace(each, content=("{}",)) if each.recipient and not each.text.strip() else each for each in expected
        ]
    assert messages_of(entries, BOX, no_seal) == expected


@given(st.lists(st.sampled_from("uact"), min_size=1, max_size=12), st.integers(0, 40))
def test_shortening_drops_the_oldest_and_no_more_than_needed(kinds: list[str], room: int):
    make = {
        "u": lambda n: user(f"u{n}"),
        "a": lambda n: assistant(f"a{n}"),
        "c": lambda n: assistant(f"c{n}", "commentary", "functions.f"),
        "t": lambda n: tool("functions.f", f"t{n}"),
    }
    head = [Message("system", ("s",)), developer("d")]
    rest = [make[kind](n) for n, kind in enumerate(kinds)]
    short = truncate([*head, *rest], lambda messages: len(messages) <= room)
    kept = short[2:]
    assert short[:2] == head
    assert kept == rest[len(rest) - len(kept) :]
    assert kept
    assert len(short) <= room or len(kept) == 1
    if len(rest) + 2 <= room:
        assert kept == rest
    if len(kept) < len(rest) and kept[0].role == "tool" and len(kept) > 1:
        assert not any(message.recipient == "functions.f" for message in rest[: -len(kept)])


def test_entries_of_stored_items_are_said_as_they_were_sampled():
    sampled = Message("assistant", ("4",), channel="final", tokens=(7, 8))
    item = {"type": "message", "id": "m", "role": "assistant", "content": [{"type": "output_text", "text": "4"}]}
    assert messages_of([ConversationEntry(item, sampled)], BOX, no_seal) == [sampled]


PREAMBLE = {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "Let me look."}]}
THOUGHT = {"type": "reasoning", "summary": [], "content": [{"type": "reasoning_text", "text": "hm"}]}
LOOK = {"type": "function_call", "call_id": "a", "name": "f", "arguments": "{}"}
LOOKED = {"type": "function_call_output", "call_id": "a", "output": "1"}
ASKED = {"role": "user", "content": "x"}


@pytest.mark.parametrize(
    ("given", "channels"),
    [
        ([ASKED, THOUGHT, PREAMBLE, LOOK, LOOKED], ["analysis", "commentary", "commentary", "commentary"]),
        ([ASKED, PREAMBLE, THOUGHT, LOOK, LOOKED], ["commentary", "analysis", "commentary", "commentary"]),
        ([ASKED, PREAMBLE, PREAMBLE, LOOK, LOOKED], ["commentary"] * 4),
        ([ASKED, LOOK, LOOKED, PREAMBLE, {**LOOK, "call_id": "b"}], ["commentary"] * 4),
        ([ASKED, LOOK, LOOKED, PREAMBLE], ["commentary", "commentary", "final"]),
        ([ASKED, PREAMBLE, ASKED, LOOK, LOOKED], ["final", None, "commentary", "commentary"]),
        ([ASKED, {**PREAMBLE, "phase": "final_answer"}, LOOK, LOOKED], ["final", "commentary", "commentary"]),
    ],
)
def test_A7_words_before_a_call_are_no_answer(given: list[dict[str, Any]], channels: list[str | None]):
    """Most clients keep no phase. Read as an answer, the words would drop the thinking that led to the call."""
    said = messages_of(read_input(given, []), toolbox(None, None), lambda sealed: sealed)
    assert [message.channel for message in said][1:] == channels


def test_A7_a_preamble_that_is_remembered_is_shown_once():
    led = [
        assistant("hm", "analysis"),
        assistant("Let me look.", "commentary"),
        assistant("{}", "commentary", "functions.f"),
    ]
    entries = read_input([ASKED, PREAMBLE, LOOK, LOOKED], [])
    said = messages_of(entries, toolbox(None, None), lambda sealed: sealed, lambda call: led)
    assert [message.text for message in said] == ["x", "hm", "Let me look.", "{}", "1"]
