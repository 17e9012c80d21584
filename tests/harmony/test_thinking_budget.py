"""The thinking budget of a turn: a spent budget closes the analysis and opens the answer."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ossia.harmony.grammar import TurnGrammar
from tests.harmony.random_turns import (
    BOTH,
    BUILT_IN,
    FUNCTIONS,
    GRAMMARS,
    SEEDS,
    allowed,
    feed,
    read,
    walk,
)
from tests.support.vocabularies import o200k, small


@BOTH
@settings(max_examples=30, deadline=None)
@given(seed=SEEDS, budget=st.integers(1, 25))
def test_a_spent_budget_closes_the_thinking_token_by_token_and_opens_the_answer(name: str, seed: int, budget: int):
    g, rng = GRAMMARS[name], random.Random(seed)
    turn = feed(
        TurnGrammar(g, analysis_budget=budget).start(),
        g.tokenizer.encode_with_special("<|channel|>analysis<|message|>"),
    )
    text: list[int] = []
    while len(choices := allowed(turn)) > 1:
        text.append(rng.choice([token for token in choices if token != g.end]))
        turn.accept(text[-1])
    assert budget <= len(text) <= budget + 3
    for token in g.tokenizer.encode_with_special("<|end|><|start|>assistant<|channel|>final<|message|>"):
        assert allowed(turn) == [token]
        turn.accept(token)
    assert g.ret in allowed(turn)


@BOTH
@settings(max_examples=30, deadline=None)
@given(seed=SEEDS, budget=st.integers(0, 12))
def test_the_budget_counts_the_thoughts_of_a_whole_turn(name: str, seed: int, budget: int):
    g = GRAMMARS[name]
    messages = read(g.tokenizer, walk(TurnGrammar(g, (FUNCTIONS,), BUILT_IN, analysis_budget=budget), seed, stops=0.3))
    thoughts = [m.tokens or () for m in messages if m.channel == "analysis" and m.recipient is None]
    texts = [tokens[tokens.index(g.tokenizer.special["<|message|>"]) + 1 : -1] for tokens in thoughts]
    assert sum(map(len, texts)) <= budget + 3
    assert bool(budget) or not texts


@BOTH
@pytest.mark.parametrize(
    ("choice", "header"),
    [
        ("get", "<|channel|>commentary to=functions.get <|constrain|>json<|message|>"),
        ("python", "<|channel|>analysis to=python code<|message|>"),
        ("none", "<|channel|>final<|message|>"),
    ],
)
def test_when_only_one_thing_may_follow_its_header_is_forced(name: str, choice: str, header: str):
    tokenizer = GRAMMARS[name].tokenizer
    turn = TurnGrammar(GRAMMARS[name], (FUNCTIONS,), BUILT_IN, tool_choice=choice, analysis_budget=0).start()
    for token in tokenizer.encode_with_special(header):
        assert allowed(turn) == [token]
        turn.accept(token)


def test_preambles_and_answers_are_not_counted():
    turn = TurnGrammar(GRAMMARS["small"], analysis_budget=2).start()
    feed(
        turn,
        small().encode_with_special(
            "<|channel|>commentary<|message|>A long word to the user.<|end|><|start|>assistant"
        ),
    )
    feed(
        turn,
        small().encode_with_special(
            "<|channel|>analysis<|message|>x<|end|><|start|>assistant<|channel|>analysis<|message|>x<|end|>"
        ),
    )
    feed(turn, small().encode_with_special("<|start|>assistant<|channel|>final<|message|>A long answer.<|return|>"))


@BOTH
@pytest.mark.parametrize("channel", ["analysis", "commentary"])
def test_what_is_being_said_as_the_room_ends_is_closed_and_the_call_forced(name: str, channel: str):
    g = GRAMMARS[name]
    turn = TurnGrammar(g, (FUNCTIONS,), BUILT_IN, tool_choice="get").start(6)
    feed(turn, g.tokenizer.encode_with_special(f"<|channel|>{channel}<|message|>"))
    x = g.tokenizer.encode("x")
    while allowed(turn) != [g.end]:
        feed(turn, x)
    call = "<|end|><|start|>assistant<|channel|>commentary to=functions.get <|constrain|>json<|message|>"
    for token in g.tokenizer.encode_with_special(call):
        assert allowed(turn) == [token]
        turn.accept(token)


def test_a_spent_budget_leaves_the_calls_open_but_no_more_thoughts():
    g = GRAMMARS["o200k"]
    turn = TurnGrammar(g, (FUNCTIONS,), BUILT_IN, analysis_budget=1).start()
    feed(turn, o200k().encode_with_special("<|channel|>analysis<|message|>Hm<|end|><|start|>assistant"))
    assert o200k().encode(" to")[0] in allowed(turn)
    feed(turn, o200k().encode_with_special("<|channel|>commentary"))
    assert o200k().special["<|message|>"] not in allowed(turn)
    assert o200k().encode(" to")[0] in allowed(turn)


@BOTH
@settings(max_examples=60, deadline=None)
@given(character=st.characters(min_codepoint=0x80, exclude_categories=["Cs"]), seed=SEEDS)
def test_a_character_that_the_budget_cuts_is_finished_and_stays_valid(name: str, character: str, seed: int):
    g, rng = GRAMMARS[name], random.Random(seed)
    data = character.encode()
    lead = g.tokenizer.encoding.encode_single_token(data[: rng.randrange(1, len(data))][:1])
    turn = feed(
        TurnGrammar(g, analysis_budget=1).start(), g.tokenizer.encode_with_special("<|channel|>analysis<|message|>")
    )
    said = [lead]
    turn.accept(lead)
    while allowed(turn) != [g.end]:
        said.append(rng.choice(allowed(turn)))
        turn.accept(said[-1])
    assert len(g.tokenizer.decode_bytes(said).decode("utf-8")) == 1


@pytest.mark.parametrize("data", [b"a", b"\xed\xb4", b"\xff", b"\xe6\x97a", b"\x97"])
def test_bytes_that_begin_no_character_are_not_waited_for(data: bytes):
    turn = TurnGrammar(GRAMMARS["small"], analysis_budget=len(data)).start()
    feed(turn, small().encode_with_special("<|channel|>analysis<|message|>"))
    feed(turn, [small().encoding.encode_single_token(bytes([byte])) for byte in data])
    assert allowed(turn) == [GRAMMARS["small"].end]
