"""Answers held to a regular expression, a choice or a grammar (A3), continued from a prefill (A11), and several calls (A19)."""

import random
import re

import pytest

from ossia.harmony.enforce import SchemaError
from ossia.harmony.grammar import Constraint, GrammarCache, PrefillError, TurnGrammar
from ossia.harmony.messages import TextGrammar, ToolNamespace, ToolSpec
from ossia.harmony.text_mask import TextMask
from tests.support.vocabularies import small

GRAMMARS = GrammarCache(small())
FINAL = "<|channel|>final<|message|>"
CALL = "<|channel|>commentary to=functions.f <|constrain|>json<|message|>{}<|call|>"
TOOLS = [ToolNamespace("functions", None, (ToolSpec("f", ""), ToolSpec("g", "")))]


def form(kind: str, *texts: str) -> TextGrammar:
    return TextGrammar(kind, texts)  # type: ignore[arg-type]


def allowed(mask: bytes) -> list[int]:
    return [token for token in range(8 * len(mask)) if mask[token >> 3] >> (token & 7) & 1]


def feed(constraint: Constraint, text: str) -> None:
    for token in small().encode_with_special(text):
        mask = constraint.mask()
        assert mask is not None
        assert token in allowed(mask), (text, small().decode([token]))
        constraint.accept(token)


def walk(mask: Constraint | TextMask, seed: int, most: int = 300) -> str | None:
    """A random text that the mask allows, to its end; None where it is longer than that."""
    rng, said = random.Random(seed), []
    for _ in range(most):
        bits = mask.mask()
        assert bits is not None
        token = rng.choice(allowed(bits))
        mask.accept(token)
        if token == GRAMMARS.ret:
            return small().decode(said)
        said.append(token)
    return None


PATTERNS = [
    r"\d{3}-\d{4}", r"(yes|no)", r"^[a-c]+$", r"(?i)ok!?", r"[^x]{1,5}", r"a/b\\c", r"(?P<n>\d)?z", r"é|ü{2}", r"<\|end\|>|x", r"[^\d\s]\w", r"[[&~\]]{2}", r"[]a]", r"\S\D\W",
]  # fmt: skip


@pytest.mark.filterwarnings("ignore:Possible nested set")  # of Python's re, about the oracle's pattern
@pytest.mark.parametrize("pattern", PATTERNS)
def test_A3_an_answer_fits_its_regular_expression(pattern: str):
    rules = TurnGrammar(GRAMMARS, response_format=form("regex", pattern))
    for seed in range(20):
        constraint = rules.start()
        feed(constraint, FINAL)
        if (said := walk(constraint, seed)) is not None:
            assert re.fullmatch(pattern, said), said


CHOICES = [
    ("yes", "no"),
    ('say "x"', "back\\slash", "new\nline", "tab\t", "/", "😀", "<|end|>"),
    ("a", "ab", "abc"),
    ("é",),
]


@pytest.mark.parametrize("choices", CHOICES)
def test_A3_an_answer_is_one_of_its_choices_and_each_can_be_said(choices: tuple[str, ...]):
    rules = TurnGrammar(GRAMMARS, response_format=form("choice", *choices))
    for choice in choices:
        constraint = rules.start()
        feed(constraint, f"{FINAL}")
        for token in [*small().encode(choice), GRAMMARS.ret]:
            assert token in allowed(constraint.mask() or b"")
            constraint.accept(token)
    for seed in range(10):
        constraint = rules.start()
        feed(constraint, FINAL)
        assert walk(constraint, seed) in choices


LARK = 'start: item+\nitem: "- " /[a-z]{1,4}/ "\\n"\n'
WRITTEN = [
    LARK,
    "?" + LARK.replace("item:", "!item:"),
    'root ::= item+\nitem ::= "- " [a-z] [a-z]? [a-z]? [a-z]? "\\n"\n',
]


@pytest.mark.parametrize("grammar", WRITTEN)
def test_A3_an_answer_fits_its_grammar_in_lark_or_gbnf(grammar: str):
    rules = TurnGrammar(GRAMMARS, response_format=form("grammar", grammar))
    for seed in range(10):
        constraint = rules.start()
        feed(constraint, FINAL)
        if (said := walk(constraint, seed)) is not None:
            assert re.fullmatch(r"(- [a-z]{1,4}\n)+", said)


def test_A3_no_grammar_lets_a_control_token_in():
    rules = TurnGrammar(GRAMMARS, response_format=form("grammar", 'start: "a" | <|start|> "a"'))
    constraint = rules.start()
    feed(constraint, FINAL)
    assert {small().decode([token]) for token in allowed(constraint.mask() or b"")} == {"a"}


BAD = [
    form("regex", "(?=a)b"), form("regex", r"(a)\1"), form("regex", "["), form("choice"), form("choice", ""), form("grammar", "nonsense"),
    form("grammar", "root ::= ("), form("regex", "a" * 70_000), form("grammar", "root ::= " + "(" * 5000), form("choice", *"a" * 6000),
]  # fmt: skip


@pytest.mark.parametrize("bad", BAD, ids=lambda bad: f"{bad.kind} {''.join(bad.texts)[:12]}")
def test_A3_what_cannot_be_enforced_is_refused_with_the_reason(bad: TextGrammar):
    with pytest.raises(SchemaError, match=f"the answer's {bad.kind} cannot be enforced: .+"):
        TurnGrammar(GRAMMARS, response_format=bad)


def test_A3_thinking_stays_free_before_a_constrained_answer():
    constraint = TurnGrammar(GRAMMARS, response_format=form("regex", "[0-9]")).start()
    feed(
        constraint,
        "<|channel|>analysis<|message|>hm, seven?<|end|><|start|>assistant<|channel|>final<|message|>7<|return|>",
    )


def test_A3_a_plain_text_is_held_to_its_form():
    for seed in range(20):
        said = walk(TextMask(GRAMMARS, form("regex", "[ab]{2,3}"), [GRAMMARS.ret]), seed)
        assert said is not None
        assert re.fullmatch("[ab]{2,3}", said)
    mask = TextMask(GRAMMARS, form("choice", "x"), [GRAMMARS.call])
    mask.accept(small().encode("x")[0])
    assert set(allowed(mask.mask() or b"")) == {GRAMMARS.ret, GRAMMARS.call}


def test_A11_a_prefill_is_continued_in_the_final_answer():
    constraint = TurnGrammar(GRAMMARS).start(prefill=small().encode("The ans"))
    feed(constraint, "wer is 42.<|return|>")


@pytest.mark.parametrize(
    ("rules", "begun", "rest"),
    [
        (TurnGrammar(GRAMMARS, response_format=form("regex", r"\d{3}")), "12", "3<|return|>"),
        (TurnGrammar(GRAMMARS, response_format={"type": "object", "required": ["a"]}), '{"a": ', "1}<|return|>"),
        (TurnGrammar(GRAMMARS, response_format=form("choice", "yes", "no")), "", "no<|return|>"),
        (TurnGrammar(GRAMMARS, response_format=form("choice", "yes", "no")), "yes", "<|return|>"),
    ],
)
def test_A11_a_prefill_is_a_beginning_of_the_form(rules: TurnGrammar, begun: str, rest: str):
    feed(rules.start(prefill=small().encode(begun)), rest)


def test_A11_a_prefill_that_does_not_fit_the_form_is_refused():
    rules = TurnGrammar(GRAMMARS, response_format=form("regex", r"\d{3}"))
    with pytest.raises(PrefillError, match="does not fit the form of the answer after '1'"):
        rules.start(prefill=small().encode("1x"))
    with pytest.raises(PrefillError, match="asks for a call"):
        TurnGrammar(GRAMMARS, tools=TOOLS, tool_choice="required").start(prefill=[])


def test_A19_a_turn_ends_at_its_first_call_unless_more_are_allowed():
    constraint = TurnGrammar(GRAMMARS, tools=TOOLS).start()
    feed(constraint, CALL)
    assert constraint.mask() is None


def test_A19_after_a_call_comes_another_or_the_tool():
    constraint = TurnGrammar(GRAMMARS, tools=TOOLS, max_calls=3).start()
    feed(constraint, CALL)
    feed(constraint, "<|start|>")
    after = {small().decode([token]) for token in allowed(constraint.mask() or b"")}
    assert after == {small().decode(small().encode(word)[:1]) for word in ("assistant", "functions.f")}
    feed(constraint, "assistant" + CALL.replace(".f", ".g"))
    feed(constraint, "<|start|>assistant" + CALL)
    assert constraint.mask() is None


def test_A19_no_answer_comes_between_a_call_and_its_result():
    constraint = TurnGrammar(GRAMMARS, tools=TOOLS, max_calls=3).start()
    feed(constraint, CALL + "<|start|>assistant<|channel|>")
    said = [small().decode([token]) for token in allowed(constraint.mask() or b"")]
    assert all("commentary".startswith(each) for each in said)
