"""Tools, grammars and random turns for the tests of grammars: `walk` samples a turn under a grammar's masks."""

import random
import re
from collections.abc import Iterable
from functools import lru_cache
from typing import Any

import openai_harmony as oracle
import pytest
from hypothesis import strategies as st

from ossia.harmony.grammar import Constraint, GrammarCache, TurnGrammar
from ossia.harmony.messages import JsonObject, Message, ToolNamespace, ToolSpec
from ossia.harmony.parse import parse
from ossia.tokenizer.tokenizer import Tokenizer
from tests.support.vocabularies import o200k, small

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


def answers(schema: JsonObject, text: str) -> bool:
    """Whether the masks let a model say just this as its answer."""
    turn = TurnGrammar(GRAMMARS["small"], response_format=schema, analysis_budget=0).start()
    for token in small().encode_with_special("<|channel|>final<|message|>") + small().encode(text):
        turn.accept(token)
    return not turn.strayed and GRAMMARS["small"].ret in allowed(turn)
