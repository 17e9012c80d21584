"""The parser on its own: events as they come, flaws by name, and the differences from the oracle that were chosen."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ossia.harmony.messages import Message
from ossia.harmony.parse import Delta, End, Event, Parser, Start, parse
from ossia.harmony.render import render_message
from tests.support.vocabularies import o200k, small


def events(text: str) -> list[Event]:
    parser = Parser(o200k())
    return [event for token in o200k().encode_with_special(text) for event in parser.feed(token)] + parser.finish()


def messages(text: str) -> list[Message]:
    return [event.message for event in events(text) if isinstance(event, End)]


def test_events_tell_a_turn_as_it_comes():
    turn = "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant to=functions.f<|channel|>commentary json<|message|>{}<|call|>"
    thought, call = messages(turn)
    assert events(turn) == [
        Start("assistant", "analysis", None, None),
        Delta("analysis", None, "Hm"),
        Delta("analysis", None, "."),
        End(thought),
        Start("assistant", "commentary", "functions.f", "json"),
        Delta("commentary", "functions.f", "{}"),
        End(call),
    ]
    assert (call.recipient, call.content_type, call.text) == ("functions.f", "json", "{}")


def test_a_well_formed_message_replays_its_ids():
    turn = o200k().encode_with_special("<|channel|>final<|message|>Hi.<|return|>")
    (message,) = parse(o200k(), turn)
    assert message.tokens == tuple(turn)
    again = render_message(o200k(), message).tokens
    assert o200k().decode(again) == "<|start|>assistant<|channel|>final<|message|>Hi.<|end|>"


@pytest.mark.parametrize(
    ("text", "given", "flaw"),
    [
        ("Four.<|return|>", [(None, None, "Four.")], "the stream ended in a header"),
        ("<|channel|>final<|message|>Fo", [("final", None, "Fo")], "unterminated"),
        ("<|channel|>finalFour.<|return|>", [("final", None, "Four.")], "the stream ended in a header"),
        ("<|channel|>finally, four.<|return|>", [(None, None, "finally, four.")], "the stream ended in a header"),
        ("<|channel|>commentaryto=functions.f<|constrain|>json_<|call|>", [("commentary", "functions.f", "json_")], "ended in"),
        ("<|channel|>final<|message|>a<|end|>\n<|start|>assistant<|channel|>final<|message|>b<|return|>",
         [("final", None, "a"), ("final", None, "b")], "no <|start|>"),
        ("<|channel|>analysis<|message|>a<|start|>assistant<|channel|>final<|message|>b<|return|>",
         [("analysis", None, "a<|start|>assistant<|channel|>final<|message|>b")], "a control token in the text"),
        ("<|channel|>analysis Hm.<|end|><|start|>assistant<|channel|>final well now<|message|>b<|return|>",
         [("analysis", None, "Hm."), ("final", "well", "b")], "fit nowhere"),
        ("<|channel|>final a b c<|message|>x<|return|>", [(None, None, "a b c"), ("final", None, "x")], "fit nowhere"),
        ("<|channel|><|message|>x<|end|>", [(None, None, "x")], "a channel marker without a channel"),
        (
            '<|channel|>commentary to=functions.f <|constrain|>json{"a":1}<|call|>',
            [("commentary", "functions.f", '{"a":1}')],
            "the stream ended in a header",
        ),
        ("<|channel|>final<|message|>a<|end|>b<|return|>", [("final", None, "a"), (None, None, "b")], "no <|start|>"),
        ("<|channel|>final<|message|>a<|end|><|start|>poet<|message|>b<|end|>", [("final", None, "a"), (None, None, "poet"), (None, None, "b")], "unknown role"),
        ("<|channel|>final<|message|>a<|return|><|return|>", [("final", None, "a")], "an end without a message"),
    ],
)  # fmt: skip
def test_malformed_turns_lose_nothing_and_are_flagged(text: str, given: list[tuple[str | None, ...]], flaw: str):
    parser = Parser(o200k())
    found = [event for token in o200k().encode_with_special(text) for event in parser.feed(token)] + parser.finish()
    ended = [event.message for event in found if isinstance(event, End)]
    assert [(message.channel, message.recipient, message.text) for message in ended] == given
    assert flaw in " ".join(parser.flaws)


def test_bare_words_in_a_header_are_read_as_the_oracle_reads_them():
    (message,) = messages("<|channel|>final hm well<|message|>x<|return|>")
    assert (message.recipient, message.content_type, message.flaws) == ("hm", "well", ())
    (message,) = messages("<|channel|>final\x1cx\x85y<|message|>x<|return|>")  # U+001C is no white space in Unicode
    assert (message.channel, message.recipient) == ("final\x1cx", "y")


def test_a_flawed_message_keeps_its_text_and_not_its_ids():
    (message,) = messages("<|channel|>final<|message|>a<|message|>b<|return|>")
    assert (message.text, message.tokens, message.flaws) == ("a<|message|>b", None, ("a control token in the text",))


def test_text_after_an_unknown_id_is_kept():
    ids = o200k().encode_with_special("<|channel|>final<|message|>a")
    (message,) = parse(o200k(), [*ids, 250_000, *o200k().encode("b")])
    assert message.text == "a\ufffdb"
    assert message.flaws == ("a control token in the text", "unterminated")


def test_a_constrained_type_without_a_recipient_is_a_type():
    (message,) = messages('<|channel|>final <|constrain|>json<|message|>{"a": 1}<|return|>')
    assert (message.channel, message.recipient, message.content_type) == ("final", None, "<|constrain|>json")


def test_ids_have_the_published_names():
    assert o200k().decode([200018]) == "<|endofprompt|>"


def test_text_comes_as_soon_as_it_is_whole():
    parser = Parser(small())
    for token in small().encode_with_special("<|channel|>final<|message|>"):
        parser.feed(token)
    given = [parser.feed(token) for token in (0x41, 0xE6, 0x42)]
    assert given == [[Delta("final", None, "A")], [], [Delta("final", None, "\ufffdB")]]


def test_the_channel_is_known_while_its_text_comes():
    parser = Parser(o200k())
    seen = []
    for token in o200k().encode_with_special("<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant"):
        parser.feed(token)
        seen.append(parser.channel)
    assert seen == [None, None, "analysis", "analysis", "analysis", None, None, None]


@settings(max_examples=200, deadline=None)
@given(tokens=st.lists(st.integers(0, small().size - 1), max_size=40))
def test_deltas_joined_are_the_messages(tokens: list[int]):
    parser = Parser(small())
    found = [event for token in tokens for event in parser.feed(token)] + parser.finish()
    text = "".join(event.text for event in found if isinstance(event, Delta))
    assert text == "".join(event.message.text for event in found if isinstance(event, End))
    starts, ends = ([event for event in found if isinstance(event, kind)] for kind in (Start, End))
    assert len(starts) == len(ends)
