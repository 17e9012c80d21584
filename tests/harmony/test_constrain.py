"""The mask of a turn: whatever is sampled under it is well-formed, calls only what is declared, and stops thinking in time."""

import json
import random
from functools import lru_cache
from typing import Any

import openai_harmony as oracle
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ossia.harmony.constrain import Grammars, Rules
from ossia.harmony.messages import Message, ToolNamespace, ToolSpec
from ossia.harmony.parse import parse
from ossia.tokenizer import Tokenizer
from tests.vocabularies import o200k, small

ENCODING = oracle.load_harmony_encoding(oracle.HarmonyEncodingName.HARMONY_GPT_OSS)
WEATHER: dict[str, Any] = {
    "type": "object",
    "properties": {"city": {"enum": ["Rome", "Oslo"]}, "days": {"type": "integer", "minimum": 0, "maximum": 9}},
    "required": ["city"],
    "additionalProperties": False,
}
FUNCTIONS = ToolNamespace("functions", None, (ToolSpec("get_weather", "w", WEATHER), ToolSpec("now", "t")))
PYTHON = ToolNamespace("python", "Runs code.")
BROWSER = ToolNamespace("browser", None, (ToolSpec("open", "o", {"type": "object", "properties": {"id": {"type": "integer"}}}),))
ANSWER: dict[str, Any] = {
    "type": "object",
    "properties": {"ok": {"type": "boolean"}, "word": {"enum": ["a", "<|end|>"]}},
    "required": ["ok", "word"],
    "additionalProperties": False,
}
TOKENIZERS = {"o200k": o200k, "small": small}
GRAMMARS = {name: Grammars(make()) for name, make in TOKENIZERS.items()}
SEEDS = st.integers(0, 2**32 - 1)


@lru_cache(maxsize=512)
def allowed(mask: bytes) -> list[int]:
    return [8 * at + bit for at, byte in enumerate(mask) if byte for bit in range(8) if byte >> bit & 1]


def walk(rules: Rules, seed: int, limit: int = 300) -> list[int]:
    """A turn sampled at random from what the masks allow; long free text is ended by its stop."""
    rng, turn, said = random.Random(seed), rules.start(), []
    stops = {rules.grammars.end, rules.grammars.ret, rules.grammars.call}
    while (mask := turn.mask()) is not None and len(said) < limit:
        open_ids = allowed(mask)
        ends = [token for token in open_ids if token in stops]
        likely = ends if ends and rng.random() < 0.15 else open_ids
        said.append(rng.choice(likely))
        turn.accept(said[-1])
        assert not turn.strayed
    return said


def messages(tokenizer: Tokenizer, tokens: list[int]) -> list[Message]:
    parsed = parse(tokenizer, tokens)
    assert not any(message.flaws for message in parsed if message is not parsed[-1])
    return parsed


@pytest.mark.parametrize("name", TOKENIZERS)
@settings(max_examples=20, deadline=None)
@given(seed=SEEDS)
def test_turns_are_well_formed_and_call_only_what_is_declared(name: str, seed: int):
    said = walk(Rules(GRAMMARS[name], (FUNCTIONS, PYTHON, BROWSER), analysis_budget=30), seed)
    *before, last = messages(TOKENIZERS[name](), said)
    assert all(message.channel in ("analysis", "commentary") and not message.recipient for message in before)
    if last.flaws:
        return  # the walk was cut off
    assert last.channel == "final" or last.recipient in ("functions.get_weather", "functions.now", "python", "browser.open")
    if last.recipient == "functions.get_weather":
        assert json.loads(last.text)["city"] in ("Rome", "Oslo")
    if last.recipient in ("functions.now", "browser.open"):
        assert isinstance(json.loads(last.text), dict)


@settings(max_examples=15, deadline=None)
@given(seed=SEEDS)
def test_the_strict_oracle_accepts_every_turn(seed: int):
    said = walk(Rules(GRAMMARS["o200k"], (FUNCTIONS, PYTHON), analysis_budget=20), seed)
    parsed = ENCODING.parse_messages_from_completion_tokens(said, oracle.Role.ASSISTANT)
    ours = parse(o200k(), said)
    assert [message.channel for message in parsed] == [message.channel for message in ours]
    assert [message.recipient for message in parsed] == [message.recipient for message in ours]


@pytest.mark.parametrize("name", TOKENIZERS)
@settings(max_examples=15, deadline=None)
@given(seed=SEEDS)
def test_final_answers_fit_their_form_and_text_in_them_is_no_control_token(name: str, seed: int):
    rules = Rules(GRAMMARS[name], response_format=ANSWER, analysis_budget=10)
    said = walk(rules, seed, limit=600)
    last = messages(TOKENIZERS[name](), said)[-1]
    if not last.flaws:
        assert last.channel == "final"
        value = json.loads(last.text)
        assert value.keys() == {"ok", "word"}
        assert value["word"] in ("a", "<|end|>")


@pytest.mark.parametrize("name", TOKENIZERS)
@settings(max_examples=15, deadline=None)
@given(seed=SEEDS, choice=st.sampled_from(["none", "required", "now", "get_weather"]))
def test_tool_choice_binds(name: str, seed: int, choice: str):
    said = walk(Rules(GRAMMARS[name], (FUNCTIONS,), tool_choice=choice, analysis_budget=10), seed)
    last = messages(TOKENIZERS[name](), said)[-1]
    if last.flaws:
        return
    match choice:
        case "none":
            assert last.channel == "final"
        case "required":
            assert last.recipient is not None
        case _:
            assert last.recipient == f"functions.{choice}"


@pytest.mark.parametrize("name", TOKENIZERS)
@settings(max_examples=20, deadline=None)
@given(seed=SEEDS, budget=st.integers(0, 25))
def test_the_budget_closes_the_thinking_and_the_answer_follows(name: str, seed: int, budget: int):
    tokenizer, rng = TOKENIZERS[name](), random.Random(seed)
    turn, said = Rules(GRAMMARS[name], analysis_budget=budget).start(), []
    stops = {GRAMMARS[name].ret, GRAMMARS[name].end}
    while (mask := turn.mask()) is not None and len(said) < 200:
        open_ids = allowed(mask)
        thinking = [token for token in open_ids if token not in stops]  # a model that would never stop by itself
        heads = parse(tokenizer, said)
        answering = bool(heads) and heads[-1].channel == "final"
        said.append(rng.choice(open_ids if answering or not thinking else thinking))
        turn.accept(said[-1])
        assert not turn.strayed
        if answering:
            break
    thoughts = [message for message in parse(tokenizer, said) if message.channel == "analysis"]
    text = [token for message in thoughts for token in (message.tokens or ())]
    assert sum(not tokenizer.is_special(token) for token in text) <= budget + (3 + 2) * len(thoughts) + 3
    if budget == 0:
        assert not thoughts


def test_a_character_that_the_budget_cuts_is_finished_first():
    tokenizer, grammars = small(), GRAMMARS["small"]
    turn = Rules(grammars, analysis_budget=1).start()
    first, *rest = tokenizer.encode("日")
    header = tokenizer.encode_with_special("<|channel|>analysis<|message|>")
    for token in [*header, first]:
        turn.accept(token)
    for token in rest:
        assert allowed(turn.mask() or b"") == sorted(grammars.continuations)
        turn.accept(token)
    assert allowed(turn.mask() or b"") == [grammars.end]
    for token in tokenizer.encode_with_special("<|end|><|start|>assistant<|channel|>final<|message|>ok<|return|>"):
        turn.accept(token)
    assert not turn.strayed
    assert turn.mask() is None


@pytest.mark.parametrize(
    "turn_text",
    [
        "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>final<|message|>Hi.<|return|>",
        "<|channel|>commentary<|message|>Let me look.<|end|><|start|>assistant<|channel|>analysis<|message|>x<|end|><|start|>assistant"
        ' to=functions.get_weather<|channel|>commentary <|constrain|>json<|message|>{"city":"Rome"}<|call|>',
        '<|channel|>commentary to=functions.get_weather <|constrain|>json<|message|>{"city": "Oslo", "days": 3}<|call|>',
        "<|channel|>commentary to=functions.now json<|message|>{}<|call|>",
        "<|channel|>analysis to=python code<|message|>print(1)<|call|>",
        " to=browser.open<|channel|>analysis code<|message|>{}<|call|>",
    ],
)
def test_what_the_model_was_trained_to_write_is_allowed(turn_text: str):
    turn = Rules(GRAMMARS["o200k"], (FUNCTIONS, PYTHON, BROWSER)).start()
    for token in o200k().encode_with_special(turn_text):
        mask = turn.mask()
        assert mask is not None
        assert mask[token >> 3] >> (token & 7) & 1, o200k().decode([token])
        turn.accept(token)
    assert not turn.strayed
    assert turn.mask() is None


@pytest.mark.parametrize(
    ("said", "banned"),
    [
        ("", "<|message|>"),
        ("<|channel|>", "foo"),
        ("<|channel|>analysis<|message|>", "<|return|>"),
        ("<|channel|>analysis<|message|>", "<|start|>"),
        ("<|channel|>final<|message|>", "<|end|>"),
        ("<|channel|>final<|message|>", "<|channel|>"),
        (" to=functions.", "rm"),
        (' to=functions.get_weather<|channel|>commentary <|constrain|>json<|message|>{"city":"', "Paris"),
        (" to=functions.get_weather<|channel|>commentary <|constrain|>json<|message|>{", "<|call|>"),
    ],
)
def test_what_is_malformed_is_banned(said: str, banned: str):
    turn = Rules(GRAMMARS["o200k"], (FUNCTIONS,)).start()
    for token in o200k().encode_with_special(said):
        turn.accept(token)
    assert not turn.strayed
    token = o200k().encode_with_special(banned)[0]
    mask = turn.mask()
    assert mask is not None
    assert not mask[token >> 3] >> (token & 7) & 1
    turn.accept(token)
    assert turn.strayed
    assert turn.mask() is None


def test_schemas_that_cannot_be_enforced_are_refused_by_keyword():
    with pytest.raises(ValueError, match="unevaluatedProperties"):
        Rules(GRAMMARS["small"], response_format={"type": "object", "unevaluatedProperties": False})


@pytest.mark.parametrize("choice", ["required", "fly"])
def test_a_choice_without_a_declared_tool_is_refused(choice: str):
    with pytest.raises(ValueError, match=f"tool_choice '{choice}' fits no declared tool"):
        Rules(GRAMMARS["small"], (), tool_choice=choice)
