"""The mask of a turn: whatever is sampled under it is well-formed, and calls only what is declared.

A model is played by chance: each token is drawn from those the mask allows, and OpenAI's strict parser reads the turn.
"""

import json
import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ossia.harmony.grammar import GrammarCache, TurnGrammar
from ossia.harmony.messages import JsonObject
from ossia.tokenizer.tokenizer import Tokenizer
from ossia.tokenizer.tokenizer_json import Vocabulary
from tests.harmony.random_turns import (
    ANSWER,
    ARGUMENTS,
    BOTH,
    BUILT_IN,
    FUNCTIONS,
    GRAMMARS,
    SEEDS,
    allowed,
    answers,
    feed,
    fits,
    read,
    walk,
)
from tests.support.data_sets import shared
from tests.support.vocabularies import SPECIAL, o200k, small

# Turns


@BOTH
@settings(max_examples=40, deadline=None)
@given(seed=SEEDS, budget=st.sampled_from([0, 5, None]))
def test_every_turn_is_thoughts_and_preambles_then_an_answer_or_a_declared_call(
    name: str, seed: int, budget: int | None
):
    said = walk(TurnGrammar(GRAMMARS[name], (FUNCTIONS,), BUILT_IN, analysis_budget=budget), seed)
    *before, last = read(GRAMMARS[name].tokenizer, said)
    assert all(m.channel in ("analysis", "commentary") and m.recipient is None for m in before)
    if last.recipient is None:
        assert last.channel == "final"
        assert said[-1] == GRAMMARS[name].ret
    else:
        assert last.channel == ("commentary" if last.recipient.startswith("functions.") else "analysis")
        assert said[-1] == GRAMMARS[name].call
        schema = ARGUMENTS[last.recipient]
        assert schema is None or fits(json.loads(last.text), schema)


@BOTH
@settings(max_examples=20, deadline=None)
@given(seed=SEEDS)
def test_every_answer_under_a_response_format_fits_it(name: str, seed: int):
    rules = TurnGrammar(
        GRAMMARS[name], (FUNCTIONS,), BUILT_IN, tool_choice="none", response_format=ANSWER, analysis_budget=10
    )
    last = read(GRAMMARS[name].tokenizer, walk(rules, seed))[-1]
    assert last.channel == "final"
    assert fits(json.loads(last.text), ANSWER)


@pytest.mark.parametrize(
    ("choice", "recipients"),
    [
        ("none", {None}),
        ("required", set(ARGUMENTS)),
        ("get", {"functions.get"}),
        ("functions.get_weather", {"functions.get_weather"}),
        ("python", {"python"}),
    ],
)
@BOTH
@settings(max_examples=15, deadline=None)
@given(seed=SEEDS)
def test_a_turn_ends_as_the_tool_choice_says(name: str, seed: int, choice: str, recipients: set[str | None]):
    said = walk(TurnGrammar(GRAMMARS[name], (FUNCTIONS,), BUILT_IN, tool_choice=choice), seed)
    assert read(GRAMMARS[name].tokenizer, said)[-1].recipient in recipients


INTEGERS = st.tuples(st.integers(-50, 50), st.integers(0, 99)).map(
    lambda pair: {"type": "integer", "minimum": pair[0], "maximum": pair[0] + pair[1]}
)
WORDS = st.text(
    st.characters(exclude_categories=["Cs", "Cc"]), max_size=5
)  # an enum's strings hold no control characters
LEAVES = st.one_of(
    INTEGERS,
    st.sampled_from([{"type": "boolean"}, {"type": "null"}, {"type": "string", "maxLength": 4}]),
    st.lists(WORDS | st.integers(-9, 9) | st.none(), min_size=1, max_size=3).map(lambda values: {"enum": values}),
)
PROPERTY_NAMES = WORDS | st.sampled_from(["a", "<|end|>", 'q"\\', "type"])


def objects(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    def closed(properties: dict[str, Any], needed: int) -> dict[str, Any]:
        required = [key for number, key in enumerate(properties) if needed >> number & 1]
        return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}

    return st.builds(closed, st.dictionaries(PROPERTY_NAMES, inner, max_size=3), st.integers(0, 7))


SCHEMAS = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        objects(inner),
        st.builds(lambda items: {"type": "array", "items": items, "maxItems": 2}, inner),
        st.builds(lambda variants: {"anyOf": variants}, st.lists(inner, min_size=1, max_size=3)),
    ),
    max_leaves=6,
)


@settings(max_examples=150, deadline=None)
@given(schema=SCHEMAS, seed=SEEDS)
def test_whatever_schema_compiles_is_kept_to(schema: JsonObject, seed: int):
    said = walk(TurnGrammar(GRAMMARS["small"], response_format=schema, analysis_budget=0), seed)
    assert fits(json.loads(read(small(), said)[-1].text), schema)


def test_no_value_that_the_json_schema_test_suite_calls_invalid_is_allowed():
    compiled = 0
    for path in sorted(shared("json_schema_test_suite/tests/draft2020-12").glob("*.json")):
        for case in json.loads(path.read_text("utf-8")):
            schema = case["schema"]
            if isinstance(schema, bool):
                continue
            try:
                TurnGrammar(GRAMMARS["small"], response_format=schema)
            except ValueError:
                continue
            compiled += 1
            invalid = [json.dumps(test["data"], ensure_ascii=False) for test in case["tests"] if not test["valid"]]
            assert not [text for text in invalid if answers(schema, text)], (path.name, case["description"])
    assert compiled > 150


TREE = {
    "$ref": "#/$defs/T",
    "$defs": {"T": {"type": "object", "properties": {"k": {"type": "array", "items": {"$ref": "#/$defs/T"}}}}},
}


@pytest.mark.parametrize(
    ("schema", "good", "bad"),
    [
        ({"type": "object"}, '{"a": [1, {"b": null}], "c": "é"}', "[]"),
        (TREE, '{"k": [{"k": []}, {}]}', '{"k": [1]}'),
        ({"type": "object", "additionalProperties": {"type": "integer"}}, '{"x": 1, "y": 2}', '{"x": "1"}'),
        ({"type": "string", "pattern": "^[a-f]{2}$"}, '"be"', '"bet"'),
        ({"type": "string", "format": "date"}, '"2024-06-30"', '"2024-06"'),
        ({"anyOf": [{"const": 1}, {"type": "null"}]}, "null", "2"),
        ({"type": ["number", "boolean"]}, "-1.5e3", '"1"'),
    ],
)
def test_schemas_in_common_use_are_enforced(schema: JsonObject, good: str, bad: str):
    assert answers(schema, good)
    assert not answers(schema, bad)


# Headers

TRAINED = [
    "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>final<|message|>Hi.<|return|>",
    "<|channel|>commentary<|message|>Let me look.<|end|><|start|>assistant<|channel|>analysis<|message|>x<|end|><|start|>assistant"
    ' to=functions.get_weather<|channel|>commentary <|constrain|>json<|message|>{"city":"Rome"}<|call|>',
    '<|channel|>commentary to=functions.get_weather <|constrain|>json<|message|>{"city": "Oslo", "days": 3}<|call|>',
    '<|channel|>commentary to=functions.get_weather<|constrain|>json<|message|>{\n  "city": "Oslo"\n}<|call|>',
    "<|channel|>commentary to=functions.get json<|message|>{}<|call|>",
    " to=functions.get<|channel|>commentary<|message|>{}<|call|>",
    "<|channel|>analysis to=python code<|message|>print(1)\n<|call|>",
    " to=python<|channel|>analysis<|message|>print('<|call|>')<|call|>",
    ' to=browser.open<|channel|>analysis code<|message|>{"id": 3}<|call|>',
    '<|channel|>analysis to=browser.open<|message|>{"id": 3}<|call|>',
]


@BOTH
@pytest.mark.parametrize("text", TRAINED)
def test_every_form_a_model_was_trained_on_is_allowed(name: str, text: str):
    tokenizer = GRAMMARS[name].tokenizer
    quoted = tokenizer.encode("<|call|>')")  # in python's code the name of a token is text
    before, inside, after = text.partition("<|call|>')")
    tokens = tokenizer.encode_with_special(before) + (quoted if inside else []) + tokenizer.encode_with_special(after)
    assert feed(TurnGrammar(GRAMMARS[name], (FUNCTIONS,), BUILT_IN).start(), tokens).mask() is None
    assert read(tokenizer, tokens)


@settings(max_examples=50, deadline=None)
@given(seed=SEEDS, text=st.sampled_from(TRAINED))
def test_headers_may_be_cut_into_tokens_in_any_way(seed: int, text: str):
    tokenizer, rng = o200k(), random.Random(seed)
    header = text[: text.index("<|message|>") + len("<|message|>")]
    tokens = [
        piece
        for token in tokenizer.encode_with_special(header)
        for piece in ([token] if tokenizer.is_special(token) or rng.random() < 0.5 else split(tokenizer, token, rng))
    ]
    feed(TurnGrammar(GRAMMARS["o200k"], (FUNCTIONS,), BUILT_IN).start(), tokens)


def split(tokenizer: Tokenizer, token: int, rng: random.Random) -> list[int]:
    text = tokenizer.decode([token])
    at = rng.randrange(len(text) + 1)
    return tokenizer.encode(text[:at]) + tokenizer.encode(text[at:])


@pytest.mark.parametrize(
    ("said", "banned"),
    [
        ("", "<|message|>"),
        ("", "Hello"),
        ("<|channel|>", "foo"),
        ("<|channel|>", "<|message|>"),
        ("<|channel|>analysis", " json"),
        ("<|channel|>final", " to"),
        ("<|channel|>analysis<|message|>", "<|return|>"),
        ("<|channel|>analysis<|message|>", "<|call|>"),
        ("<|channel|>analysis<|message|>", "<|start|>"),
        ("<|channel|>analysis<|message|>", "<|endoftext|>"),
        ("<|channel|>analysis<|message|>x<|end|>", "<|channel|>"),
        ("<|channel|>analysis<|message|>x<|end|><|start|>", "user"),
        ("<|channel|>final<|message|>", "<|end|>"),
        ("<|channel|>final<|message|>", "<|channel|>"),
        (" to=functions.", "rm"),
        (" to=functions.get<|channel|>", "analysis"),
        (" to=python<|channel|>", "comment"),
        (" to=python<|channel|>analysis<|message|>", "<|end|>"),
        (' to=functions.get_weather<|channel|>commentary json<|message|>{"city":', "1"),
        (' to=functions.get_weather<|channel|>commentary json<|message|>{"city":"', "<|end|>"),
        (" to=functions.get_weather<|channel|>commentary json<|message|>{", "<|call|>"),
        (' to=functions.get_weather<|channel|>commentary json<|message|>{"city":""}', "<|return|>"),
        (' to=functions.get_weather<|channel|>commentary json<|message|>{"city":""}', "<|end|>"),
    ],
)
def test_what_is_malformed_is_banned_and_if_it_comes_all_the_same_the_turn_has_strayed(said: str, banned: str):
    turn = feed(TurnGrammar(GRAMMARS["o200k"], (FUNCTIONS,), BUILT_IN).start(), o200k().encode_with_special(said))
    token = o200k().encode_with_special(banned)[0]
    assert token not in allowed(turn)
    turn.accept(token)
    assert turn.strayed
    assert turn.mask() is None


@settings(max_examples=200, deadline=None)
@given(
    tokens=st.lists(
        st.integers(0, 400) | st.integers(0, 300_000) | st.sampled_from(list(small().special.values())), max_size=40
    )
)
def test_nothing_that_is_accepted_raises(tokens: list[int]):
    turn = TurnGrammar(GRAMMARS["small"], (FUNCTIONS,), BUILT_IN, analysis_budget=3).start()
    for token in tokens:
        turn.accept(token)
        assert turn.mask() is None or allowed(turn)


# Free text


@BOTH
def test_free_text_has_one_mask_that_is_made_once(name: str):
    g = GRAMMARS[name]
    turn = feed(TurnGrammar(g).start(), g.tokenizer.encode_with_special("<|channel|>final<|message|>"))
    mask = turn.mask()
    special = set(g.tokenizer.special.values())
    assert set(allowed(turn)) == set(range(g.tokenizer.size)) - special | {g.ret}
    feed(turn, g.tokenizer.encode("Any text, 日本 too."))
    assert turn.mask() is mask
    again = feed(
        TurnGrammar(g, (FUNCTIONS,), BUILT_IN).start(), g.tokenizer.encode_with_special("<|channel|>final<|message|>")
    )
    assert again.mask() is mask


def gapped() -> Tokenizer:
    """A tokenizer with unused ids between its words and its special tokens."""
    ranks = {bytes([byte]): byte for byte in range(256)}
    return Tokenizer(Vocabulary(ranks, r"\p{L}+|\P{L}+", {name: 300 + number for number, name in enumerate(SPECIAL)}))


def test_ids_that_are_no_token_are_never_allowed():
    g = GrammarCache(gapped(), vocab=1000)
    rules = TurnGrammar(g, (FUNCTIONS,), response_format=ANSWER)
    for text in (
        "",
        "<|channel|>",
        "<|channel|>analysis<|message|>",
        '<|channel|>final<|message|>{"ok":',
        " to=functions.get<|channel|>commentary<|message|>{",
    ):
        turn = feed(rules.start(), g.tokenizer.encode_with_special(text))
        assert len(turn.mask() or b"") == 4 * 32  # 1000 bits, in whole words of 32
        assert all(token in range(256) or token in g.tokenizer.special.values() for token in allowed(turn))
