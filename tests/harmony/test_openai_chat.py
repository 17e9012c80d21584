"""Chat messages as harmony: contents, calls and results as they are meant, whichever client wrote them."""

from typing import Any

import msgspec
import pytest

from ossia.harmony.client_tools import toolbox
from ossia.harmony.errors import InputError
from ossia.harmony.messages import Message, assistant, developer, tool, user
from ossia.harmony.openai_chat import ChatMessage, History, read_history

BOX = toolbox([{"type": "function", "function": {"name": name}} for name in ("weather", "python", "get weather")])
IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
CALL = {"id": "c", "type": "function", "function": {"name": "weather", "arguments": "{}"}}


def history(*messages: dict[str, Any]) -> History:
    return read_history(msgspec.convert(list(messages), list[ChatMessage]), BOX)


def read(*messages: dict[str, Any]) -> list[Message]:
    return history(*messages).messages


def said(role: str, content: Any = None, **more: Any) -> dict[str, Any]:
    return {"role": role, "content": content, **more}


@pytest.mark.parametrize("arguments", [None, "", "  ", {}, "{}"])
def test_A16_arguments_that_are_null_or_empty_mean_none(arguments: Any):
    for message in ({"tool_calls": [{"id": None, "function": {"name": "weather", "arguments": arguments}}]},
                    {"function_call": {"name": "weather", "arguments": arguments}}):  # fmt: skip
        assert read(said("assistant", **message)) == [
            assistant("{}", "commentary", "functions.weather", "<|constrain|>json")
        ]


def test_A16_arguments_as_an_object_are_its_json():
    call = {"id": "c", "function": {"name": "weather", "arguments": {"city": "京都", "days": [1, None]}}}
    assert read(said("assistant", tool_calls=[call]))[0].text == '{"city":"京都","days":[1,null]}'


def test_the_older_form_of_calls_is_read_as_the_newer():
    older = [
        said("user", "Weather?"),
        said("assistant", None, function_call={"name": "get weather", "arguments": '{"a":1}'}),
        said("function", "sunny", name="get weather"),
    ]
    newer = [
        said("user", "Weather?"),
        said("assistant", None, tool_calls=[{"id": "x", "function": {"name": "get weather", "arguments": '{"a":1}'}}]),
        said("tool", "sunny", tool_call_id="x"),
    ]
    assert read(*older) == read(*newer)
    assert read(*older)[2] == tool("functions.get_weather", "sunny")


def test_A14_parts_are_joined_by_a_newline_in_every_role():
    parts = [{"type": "text", "text": "Summarise:"}, {"type": "text", "text": "The fox"}]
    both = "Summarise:\nThe fox"
    assert read(
        said("system", parts), said("user", parts), said("assistant", parts),
        said("assistant", parts, tool_calls=[CALL]), said("tool", parts, tool_call_id="c"), said("user", ["Summarise:", "The fox"]),
    ) == [
        developer(both), user(both), assistant(both), assistant(both, "commentary"),
        assistant("{}", "commentary", "functions.weather", "<|constrain|>json"), tool("functions.weather", both), user(both),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "name"),
    [("image_url", "image"), ("input_image", "image"), ("image", "image"), ("input_audio", "audio"), ("file", "file"),
     ("document", "document"), ("video_url", "video"), ("hologram", "hologram")],
)  # fmt: skip
def test_A7_what_is_no_text_in_a_result_or_in_history_is_a_placeholder_with_a_warning(kind: str, name: str):
    part = {"type": kind, kind: {"url": "x"}}
    read = history(
        said("user", [{"type": "text", "text": "What is it?"}, part]),
        said("assistant", "A fox."),
        said("user", "And this?"),
        said("assistant", None, tool_calls=[CALL]),
        said("tool", [part], tool_call_id="c"),
    )
    placeholder = f"[{name}: not readable by this model]"
    assert read.messages[0] == user(f"What is it?\n{placeholder}")
    assert read.messages[4] == tool("functions.weather", placeholder)
    assert [each.partition(":")[0] for each in read.warnings] == ["messages[0].content[1]", "messages[4].content[0]"]


@pytest.mark.parametrize("prefill", [False, True])
def test_A7_an_image_in_the_newest_user_message_is_refused_by_its_place(prefill: bool):
    messages = [
        said("user", "hi"),
        said("assistant", "yes?"),
        said("user", "now"),
        said("user", [{"type": "text", "text": "x"}, IMAGE]),
    ]
    with pytest.raises(
        InputError, match=r"messages\[3\].content\[1\] is of type 'image_url': this model reads text only"
    ) as caught:
        history(*messages, *([said("assistant", "It shows")] if prefill else []))
    assert caught.value.param == "messages[3].content[1]"


def test_calls_and_results_that_do_not_match_are_named_by_their_places():
    calls = [CALL, {**CALL, "id": "d"}]
    read = history(
        said("assistant", None, tool_calls=calls),
        said("tool", "1", tool_call_id="d"),
        said("tool", "2", tool_call_id="d"),
    )
    assert read.unanswered == ["messages[0].tool_calls[0]"]
    assert read.repeated == ["messages[2]"]
    with pytest.raises(InputError, match=r"messages\[1\] answers 'z', which no message before it calls"):
        history(said("assistant", None, tool_calls=calls), said("tool", "1", tool_call_id="z"))


def test_every_message_names_the_chat_message_that_it_comes_from():
    calls = [CALL, {**CALL, "id": "d"}]
    read = history(
        said("user", "?"), said("assistant", "I look.", reasoning="hm", tool_calls=calls),
        said("tool", "2", tool_call_id="d"), said("tool", "1", tool_call_id="c"), said("assistant", "ok"),
    )  # fmt: skip
    assert [message.text for message in read.messages] == ["?", "I look.", "{}", "1", "{}", "2", "ok"]
    assert read.sources == [0, 1, 1, 3, 1, 2, 4]
