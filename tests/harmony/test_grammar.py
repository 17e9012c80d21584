"""The mask of a turn: whatever is sampled under it is well-formed, calls only what is declared, and keeps to its thinking budget.

A model is played by chance: each token is drawn from those the mask allows, and OpenAI's strict parser reads the turn.
"""

import json
import random
import re
import subprocess
import sys
from collections.abc import Iterable
from functools import lru_cache
from typing import Any

import openai_harmony as oracle
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ossia.harmony.grammar import Constraint, GrammarCache, TurnGrammar
from ossia.harmony.messages import JsonObject, Message, ToolNamespace, ToolSpec
from ossia.harmony.parse import parse
from ossia.tokenizer.tokenizer import Tokenizer
from ossia.tokenizer.tokenizer_json import Vocabulary
from tests.support.data_sets import shared
from tests.support.vocabularies import SPECIAL, o200k, small

ENCODING = oracle.load_harmony_encoding(oracle.HarmonyEncodingName.HARMONY_GPT_OSS)
GRAMMARS = {"o200k": GrammarCache(o200k()), "small": GrammarCache(small())}
SEEDS = st.integers(0, 2**32 - 1)
BOTH = pytest.mark.parametrize("name", GRAMMARS)

WEATHER: dict[str, Any] = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "maxLength": 6},
        "days": {"type": "integer", "minimum": -3, "maximum": 14},
        "units": {"type": "array", "items": {"enum": ["c", "f", "<|call|>"]}, "maxItems": 2},
    },
    "required": ["city"],
    "additionalProperties": False,
}
OPEN = {"type": "object", "properties": {"id": {"$ref": "#/$defs/Id"}}, "$defs": {"Id": {"type": "integer", "minimum": 0, "maximum": 99}},
        "required": ["id"], "additionalProperties": False}  # fmt: skip
NOTHING = {"type": "object", "properties": {}, "additionalProperties": False}
FUNCTIONS = ToolNamespace("functions", None, (ToolSpec("get_weather", "w", WEATHER), ToolSpec("get", "t")))
BUILT_IN = (
    ToolNamespace("python", "Runs code."),
    ToolNamespace("browser", None, (ToolSpec("open", "o", OPEN),)),
)
ARGUMENTS: dict[str, Any] = {
    "functions.get_weather": WEATHER,
    "functions.get": NOTHING,
    "browser.open": OPEN,
    "python": None,
}
ANSWER: dict[str, Any] = {
    "type": "object",
    "properties": {
        "ok": {"type": "boolean"},
        "word": {"enum": ["a", "<|end|>"]},
        "note": {"type": "string", "maxLength": 9},
    },
    "required": ["ok", "word"],
    "additionalProperties": False,
}


@lru_cache(maxsize=64)
def bits(mask: bytes) -> list[int]:
    return [
        8 * found.start() + bit for found in re.finditer(b"[^\\0]", mask) for bit in range(8) if found[0][0] >> bit & 1
    ]


def draw(mask: bytes, rng: random.Random) -> int:
    """An allowed token. Most masks allow most tokens, so a few are tried before all are listed."""
    tried = (rng.randrange(8 * len(mask)) for _ in range(20))
    lucky = next((token for token in tried if mask[token >> 3] >> (token & 7) & 1), None)
    return rng.choice(bits(mask)) if lucky is None else lucky


def allowed(turn: Constraint) -> list[int]:
    mask = turn.mask()
    assert mask is not None
    return bits(mask)


def feed(turn: Constraint, tokens: Iterable[int]) -> Constraint:
    for token in tokens:
        assert token in allowed(turn), token
        turn.accept(token)
    return turn


def walk(rules: TurnGrammar, seed: int, stops: float = 0.15) -> list[int]:
    """A whole turn drawn from what the masks allow; where a text may be closed, that is done with probability `stops`."""
    rng, turn, said = random.Random(seed), rules.start(), []
    g = rules.grammars
    while (mask := turn.mask()) is not None:
        ends = [token for token in (g.end, g.ret, g.call) if mask[token >> 3] >> (token & 7) & 1]
        said.append(ends[0] if ends and rng.random() < stops else draw(mask, rng))
        turn.accept(said[-1])
        assert len(said) < 20_000
    assert not turn.strayed
    assert said[-1] in (g.ret, g.call)
    return said


def read(tokenizer: Tokenizer, tokens: list[int]) -> list[Message]:
    """The messages of a turn, none malformed; for gpt-oss's own tokens, as the strict oracle reads them, too."""
    messages = parse(tokenizer, tokens)
    assert not [message.flaws for message in messages if message.flaws]
    if tokenizer is o200k():
        theirs = ENCODING.parse_messages_from_completion_tokens(tokens, oracle.Role.ASSISTANT)
        assert [(m.channel, m.recipient, m.content_type) for m in theirs] == [
            (m.channel, m.recipient, m.content_type) for m in messages
        ]
    return messages


def fits(value: Any, schema: Any, root: Any = None) -> bool:
    """A small validator for the keywords used here, written apart from the one under test."""
    root = root or schema
    if "$ref" in schema:
        return fits(value, root["$defs"][schema["$ref"].removeprefix("#/$defs/")], root)
    if "anyOf" in schema:
        return any(fits(value, each, root) for each in schema["anyOf"])
    if "enum" in schema:
        return any(value == each and type(value) is type(each) for each in schema["enum"])
    match schema["type"]:
        case "object":
            properties = schema["properties"]
            return (
                isinstance(value, dict)
                and set(schema.get("required", ())) <= value.keys() <= properties.keys()
                and all(fits(each, properties[key], root) for key, each in value.items())
            )
        case "array":
            return (
                isinstance(value, list)
                and len(value) <= schema["maxItems"]
                and all(fits(each, schema["items"], root) for each in value)
            )
        case "string":
            return isinstance(value, str) and len(value) <= schema["maxLength"]
        case "integer":
            return type(value) is int and schema["minimum"] <= value <= schema["maximum"]
        case "boolean":
            return isinstance(value, bool)
        case kind:
            return kind == "null" and value is None


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


def answers(schema: JsonObject, text: str) -> bool:
    """Whether the masks let a model say just this as its answer."""
    turn = TurnGrammar(GRAMMARS["small"], response_format=schema, analysis_budget=0).start()
    for token in small().encode_with_special("<|channel|>final<|message|>") + small().encode(text):
        turn.accept(token)
    return not turn.strayed and GRAMMARS["small"].ret in allowed(turn)


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


# The budget of thinking


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


# What is refused


@pytest.mark.parametrize(
    ("schema", "reason"),
    [
        ({"$ref": "#/$defs/A", "unevaluatedProperties": False, "$defs": {"A": {}}}, "unevaluatedProperties at #: "),
        ({"items": {"type": "string", "pattern": r"a\b"}}, "pattern at #/items: word boundaries"),
        ({"oneOf": [{"type": "integer"}, {"multipleOf": 2}]}, "oneOf at #: "),
        ({"$ref": "#/$defs/Nowhere"}, "Nowhere"),
        ({"$ref": "#"}, "no value fits it"),
        ({"enum": []}, "no value fits it"),
        ({"type": "text"}, "text"),
    ],
)
def test_a_schema_that_cannot_be_enforced_is_refused_with_the_reason(schema: JsonObject, reason: str):
    with pytest.raises(ValueError, match=f"JSON schema of final cannot be enforced: .*{reason}"):
        TurnGrammar(GRAMMARS["small"], response_format=schema)


def test_a_schema_may_ask_for_less_to_be_enforced():
    schema = {"oneOf": [{"type": "integer"}, {"multipleOf": 2, "type": "number"}], "contains": {}}
    assert answers({**schema, "x-guidance": {"lenient": True}}, "4")
    with pytest.raises(ValueError, match="contains"):
        answers({**schema, "x-guidance": {"coerce_one_of": True}}, "4")


def test_a_refused_schema_of_a_tool_is_named_by_the_tool():
    tools = ToolNamespace("functions", None, (ToolSpec("f", "", {"properties": {"x": {"uniqueItems": True}}}),))
    with pytest.raises(
        ValueError, match=r"JSON schema of functions\.f cannot be enforced: uniqueItems at #/properties/x: "
    ):
        TurnGrammar(GRAMMARS["small"], (tools,))
    assert TurnGrammar(GRAMMARS["small"], (tools,), tool_choice="none")


def test_of_a_tool_that_is_not_strict_what_cannot_be_enforced_is_left_out_and_said():
    schema = {
        "properties": {"x": {"type": "array", "uniqueItems": True, "items": {"type": "integer", "maximum": 3}}},
        "required": ["x"],
    }
    space = ToolNamespace(
        "functions", None, (ToolSpec("f", "", schema, strict=False), ToolSpec("g", "", WEATHER, strict=False))
    )
    rules = TurnGrammar(GRAMMARS["small"], (space,), tool_choice="f", analysis_budget=0)
    assert [*rules.dropped] == ["functions.f"]
    assert rules.dropped["functions.f"][0].startswith("uniqueItems at #/properties/x: ")
    header = "<|channel|>commentary to=functions.f <|constrain|>json<|message|>"
    turn = feed(rules.start(), small().encode_with_special(header + '{"x":[3,3]}'))
    assert GRAMMARS["small"].call in allowed(turn)
    turn = feed(rules.start(), small().encode_with_special(header + '{"x":['))
    assert small().encode("4")[0] not in allowed(turn)


def test_no_schema_of_a_tool_that_is_not_strict_is_refused():
    for schema in (
        {"type": "text"},
        {"type": "array"},
        {"properties": 3, "required": None},
        {"$ref": "http://a.b/c"},
        {"enum": []},
        {"not": {}},
    ):
        space = ToolNamespace("functions", None, (ToolSpec("f", "", schema, strict=False),))
        said = walk(TurnGrammar(GRAMMARS["small"], (space,), tool_choice="f", analysis_budget=0), 1)
        assert isinstance(json.loads(read(small(), said)[-1].text), dict)


def test_a_schema_too_costly_to_follow_sets_the_turn_free():
    rng = random.Random(0)
    text = "".join(rng.choice("abcx") for _ in range(1000))
    turn = TurnGrammar(
        GRAMMARS["small"], response_format={"type": "string", "pattern": "(.*a.{300}){3}"}, analysis_budget=0
    ).start()
    for token in small().encode_with_special("<|channel|>final<|message|>") + small().encode('"' + text):
        if not turn.strayed:
            feed(turn, [token])
    assert turn.strayed
    assert turn.mask() is None


def test_arguments_are_an_object_whatever_the_schema_says():
    tools = (ToolNamespace("functions", None, (ToolSpec("f", "d", {}),)),)
    turn = feed(
        TurnGrammar(GRAMMARS["small"], tools).start(),
        small().encode_with_special(" to=functions.f<|channel|>commentary<|message|>"),
    )
    assert allowed(turn) == small().encode("{")


@pytest.mark.parametrize("choice", ["weather", "open", "functions", "Python", ""])
def test_a_choice_of_an_undeclared_tool_is_refused(choice: str):
    with pytest.raises(
        ValueError,
        match=r"fits no declared tool \(declared: functions\.get_weather, functions\.get, python, browser\.open\)",
    ):
        TurnGrammar(GRAMMARS["small"], (FUNCTIONS,), BUILT_IN, tool_choice=choice)


def test_a_call_cannot_be_required_where_nothing_is_declared():
    with pytest.raises(ValueError, match=r"tool_choice 'required' fits no declared tool \(declared: none\)"):
        TurnGrammar(GRAMMARS["small"], (ToolNamespace("functions"),), tool_choice="required")


@pytest.mark.parametrize("tool_name", ["a b", "f<|channel|>final", "f\n", "", "f to=python", "a=b"])
def test_a_name_that_would_break_a_header_is_refused(tool_name: str):
    tools = (ToolNamespace("functions", None, (ToolSpec(tool_name, "d"),)),)
    with pytest.raises(ValueError, match="cannot stand in a header"):
        TurnGrammar(GRAMMARS["small"], tools)


def test_a_negative_budget_is_refused():
    with pytest.raises(ValueError, match="analysis_budget -1"):
        TurnGrammar(GRAMMARS["small"], analysis_budget=-1)


def test_importing_the_module_imports_no_array_library():
    code = "import sys, ossia.harmony.grammar; print([n for n in ('torch', 'numpy') if n in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
