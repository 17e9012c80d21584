"""The renderer on its own: what a prompt looks like, what of a history is kept, what is trained on, what is refused."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ossia.harmony.messages import (
    Developer,
    Message,
    ResponseFormat,
    System,
    ToolNamespace,
    ToolSpec,
    assistant,
    developer,
    system,
    tool,
    user,
)
from ossia.harmony.parse import parse
from ossia.harmony.render import developer_text, render, render_message, render_training
from tests.support.vocabularies import SPECIAL, o200k, small

WEATHER = ToolSpec("get_weather", "Gets the weather.", {"type": "object", "properties": {"city": {"type": "string"}}})
FUNCTIONS = ToolNamespace("functions", None, (WEATHER,))
ANALYSIS, FINAL = assistant("Easy.", "analysis"), assistant("4")
CALL = assistant('{"city":"Oslo"}', "commentary", "functions.get_weather", "<|constrain|>json")
RESULT = tool("functions.get_weather", '{"sun":true}')


def text(messages: list[Message], **options: object) -> str:
    return o200k().decode(render(o200k(), messages, **options))  # type: ignore[arg-type]


def test_a_prompt():
    messages = [
        system(System(effort="high", current_date="2026-01-31")),
        developer(Developer("Be kind.", (FUNCTIONS,))),
        user("Weather?"),
    ]
    assert text(messages, next_role="assistant") == (
        "<|start|>system<|message|>You are ChatGPT, a large language model trained by OpenAI.\nKnowledge cutoff: 2024-06\n"
        "Current date: 2026-01-31\n\nReasoning: high\n\n"
        "# Valid channels: analysis, commentary, final. Channel must be included for every message.\n"
        "Calls to these tools must go to the commentary channel: 'functions'.<|end|>"
        "<|start|>developer<|message|># Instructions\n\nBe kind.\n\n# Tools\n\n## functions\n\nnamespace functions {\n\n"
        "// Gets the weather.\ntype get_weather = (_: {\ncity?: string,\n}) => any;\n\n} // namespace functions<|end|>"
        "<|start|>user<|message|>Weather?<|end|><|start|>assistant"
    )


def test_a_call_and_its_result():
    assert text([CALL, RESULT]) == (
        "<|start|>assistant to=functions.get_weather<|channel|>commentary <|constrain|>json<|message|>"
        '{"city":"Oslo"}<|call|><|start|>functions.get_weather to=assistant<|channel|>commentary<|message|>{"sun":true}<|end|>'
    )


def test_a_response_format():
    form = ResponseFormat("shopping", {"type": "object"}, "What\nto buy")
    assert developer_text(Developer("I", (), (form,))) == (
        '# Instructions\n\nI\n\n# Response Formats\n\n## shopping\n\n// What\n// to buy\n{"type":"object"}'
    )


@settings(max_examples=200, deadline=None)
@given(pieces=st.lists(st.sampled_from(SPECIAL) | st.text(max_size=5), max_size=6))
def test_no_text_can_forge_a_control_token(pieces: list[str]):
    said = "".join(pieces)
    tokens = render(small(), [user(said), developer(said), system(System(said)), tool(said, said)], "assistant")
    names = [small().decode([token]) for token in tokens if small().is_special(token)]
    assert names == [
        *["<|start|>", "<|message|>", "<|end|>"] * 3,
        *["<|start|>", "<|channel|>", "<|message|>", "<|end|>", "<|start|>"],
    ]


@pytest.mark.parametrize(
    ("messages", "kept"),
    [
        ([user("a"), ANALYSIS, FINAL, user("b")], [0, 2, 3]),
        ([user("a"), ANALYSIS, CALL, RESULT], [0, 1, 2, 3]),  # the turn goes on: its thinking stays
        ([user("a"), ANALYSIS, FINAL, user("b"), ANALYSIS, CALL, RESULT], [0, 1, 2, 3, 4, 5, 6]),
        ([user("a"), ANALYSIS, FINAL, user("b"), ANALYSIS, FINAL], [0, 2, 3, 4, 5]),  # only before the first final
        ([user("a"), ANALYSIS], [0, 1]),
    ],
)
def test_old_thinking_is_left_out_once_the_last_word_is_final(messages: list[Message], kept: list[int]):
    assert render(o200k(), messages) == render(o200k(), [messages[i] for i in kept], drop_analysis=False)


def test_sampled_ids_are_replayed_as_they_were():
    odd = [*small().encode_with_special("<|channel|>final<|message|>"), *b"final", small().special["<|return|>"]]
    assert odd[-6:-1] != small().encode("final")
    (message,) = parse(small(), odd)
    opening = small().encode_with_special("<|start|>assistant")
    assert render(small(), [message]) == [*opening, *odd[:-1], small().special["<|end|>"]]
    assert render_training(small(), [message]).tokens == [*opening, *odd]


@pytest.mark.parametrize(("recipient", "end"), [(None, "<|end|>"), ("functions.f", "<|call|>")])
def test_a_sampled_message_that_was_cut_is_closed(recipient: str | None, end: str):
    ids = tuple(o200k().encode_with_special("<|channel|>final<|message|>Fo"))
    message = Message("assistant", ("Fo",), channel="final", recipient=recipient, tokens=ids)
    assert o200k().decode(render_message(o200k(), message).tokens[-2:]) == f"Fo{end}"


def test_trained_on_is_what_the_assistant_says():
    rendered = render_training(
        o200k(), [system(), user("a"), ANALYSIS, CALL, RESULT, ANALYSIS, FINAL], drop_analysis=False
    )
    pairs = zip(rendered.tokens, rendered.sampled, strict=True)
    assert o200k().decode([token for token, sampled in pairs if sampled]) == (
        "<|channel|>analysis<|message|>Easy.<|end|>"
        ' to=functions.get_weather<|channel|>commentary <|constrain|>json<|message|>{"city":"Oslo"}<|call|>'
        "<|channel|>analysis<|message|>Easy.<|end|><|channel|>final<|message|>4<|return|>"
    )


@pytest.mark.parametrize(
    ("message", "refusal"),
    [
        (Message("tool", ("x",)), "a tool message needs the tool's name"),
        (Message("user", (System(),)), "System content stands in a system message only, not in one of user"),
        (Message("system", (Developer(),)), "Developer content stands in a developer message only"),
    ],
)
def test_what_has_no_rendering_is_refused(message: Message, refusal: str):
    with pytest.raises(ValueError, match=refusal):
        render(o200k(), [message])


NAMES = st.from_regex(r"[a-z][a-z0-9_.]{0,12}", fullmatch=True)
SAID = st.builds(
    assistant,
    st.text(st.characters(exclude_categories=["Cs"]), max_size=30),
    st.sampled_from(["analysis", "commentary", "final"]),
    st.none() | NAMES.map("functions.{}".format),
    st.none(),
) | st.builds(assistant, st.just("{}"), st.just("commentary"), NAMES, st.sampled_from(["<|constrain|>json", "code"]))


@settings(max_examples=200, deadline=None)
@given(messages=st.lists(SAID, min_size=1, max_size=4))
def test_what_is_rendered_is_parsed_back(messages: list[Message]):
    tokens = render(small(), messages, drop_analysis=False)
    parsed = parse(small(), tokens, role=None)
    assert not any(message.flaws for message in parsed)
    same = [(m.role, m.channel, m.recipient, m.content_type, m.text) for m in messages]
    assert [(m.role, m.channel, m.recipient, m.content_type, m.text) for m in parsed] == same
    assert render(small(), parsed, drop_analysis=False) == tokens
