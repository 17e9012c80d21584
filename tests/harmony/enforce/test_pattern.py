"""Patterns: read as ECMAScript reads them, whatever llguidance's dialect makes of the same characters."""

import contextlib
import json
import random
import re

import jsonschema_rs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ossia.harmony.enforce import SchemaError
from ossia.harmony.enforce.pattern import pattern_language
from ossia.harmony.grammar import GrammarCache
from tests.support.vocabularies import small

GRAMMARS = GrammarCache(small())
LETTERS = "ab&-~[]c:lph/é😀_+,.\\\"'@#=<>!%`;^A$|1 \n\t\v\u00a0\ufeff\x85\u0663"
STRINGS = ["", *LETTERS, *(first + second for first in "ab&-]c" for second in "ab]&-")]


def matched(pattern: str, text: str) -> bool:
    matcher = GRAMMARS.matcher({"type": "string", "pattern": pattern})
    tokens = small().encode(json.dumps(text, ensure_ascii=False))
    return matcher.try_consume_tokens(tokens) == len(tokens) and matcher.is_accepting()


@pytest.mark.parametrize(
    "pattern",
    r"^[a&&b]$ ^[a[b]c]$ ^[a~~b]$ ^[[:alpha:]]$ ^[a-z&&[^b]]$ ^\/$ ^\p{L}$ ^\-$ ^\s$ ^\S$ ^[^\s]$ ^[^\S]$ ^[\s\S]$ ^\w$ ^\W$ ^\d$ ^\D$ ^[\w-]$ "
    r"^[a\-z]$ ^[\]]$ ^[\\]$ ^[\d\-]$ ^(?<n>a)$ ^(?:a|b)$ ^\u0041$ ^\u{41}$ \$ ^\$$ ^[.]$ ^\.$ ^[|]$ ^[&]$ ^a|b$ (^a)|(b$) [^a]$ a$|^b ^$ ^a{2,}$ ^[!--]$ ^[+--b]$ ^(?=.*b)a ^(?!a) ^a(?!b) ^a(?=b) ^(?:(?!b).)*$ (?=b) a(?!$)".split(),
)
def test_a_pattern_matches_what_ecmascript_says(pattern: str):
    said = jsonschema_rs.validator_for({"type": "string", "pattern": pattern})
    # \v would be written with \u, which no answer may hold
    assert [text for text in STRINGS if matched(pattern, text)] == [
        text for text in STRINGS if said.is_valid(text) and "\v" not in text
    ]


@pytest.mark.parametrize(
    ("pattern", "text", "other"),
    [
        ("^.$", "a", "\u2028"),
        (r"^\cJ$", "\n", "J"),
        (r"^[\b]$", "\b", "b"),
        (r"^\ud83d\ude00$", "😀", "u"),
        ("^[^]$", "\n", ""),
        (r"^\0?$", "", "0"),
    ],
)
def test_what_the_judge_does_not_know_is_read_as_ecmascript_too(pattern: str, text: str, other: str):
    assert matched(pattern, text)
    assert not matched(pattern, other)


@pytest.mark.parametrize(
    "pattern",
    [r"^\a", r"\A", r"\z", r"\Z", "(?i)a", "(?x) a", "(?P=n)", "a\\", r"[\1]", r"\x{41}", r"\pL"],
)
def test_what_is_not_ecmascript_is_refused(pattern: str):
    with pytest.raises(ValueError, match=r"ECMAScript|two ways"):
        pattern_language(pattern)


@settings(max_examples=300, deadline=None)
@given(st.text(st.sampled_from("ab[](){}|^$.*+?\\-&~sSdwbcuxpP0123:<=!,"), max_size=12))
def test_any_text_is_a_pattern_or_refused(pattern: str):
    with contextlib.suppress(ValueError):
        assert pattern_language(pattern) is not None


def random_part(rng: random.Random, depth: int) -> str:
    """A piece of a regular expression over a, b, c and 1."""
    if depth == 0 or rng.random() < 0.35:
        return rng.choice(("a", "b", "c", "1", "[ab]", "[^a]", r"\d", r"\w", ".", "ab", "a.c"))
    if rng.random() < 0.35:
        return f"(?:{random_part(rng, depth - 1)}|{random_part(rng, depth - 1)})"
    if rng.random() < 0.5:
        return f"(?:{random_part(rng, depth - 1)}){rng.choice(('*', '+', '?', '{1,2}', '{2}', '*?'))}"
    return random_part(rng, depth - 1) + random_part(rng, depth - 1)


def random_pattern(rng: random.Random) -> str:
    """An expression with one to three leading look-aheads, positive or negative, anchored or not."""
    looks = "".join(
        f"(?{rng.choice('=!')}{rng.choice(('', '.*', '.*'))}{random_part(rng, 2)}{rng.choice(('', '', '$'))})"
        for _ in range(rng.randint(1, 3))
    )
    start = "^" if rng.random() < 0.85 else ""
    return f"{start}{looks}{random_part(rng, 3)}{rng.choice(('', '.*', '$', '$'))}"


@pytest.mark.parametrize("count", [40, pytest.param(500, marks=pytest.mark.slow)])
def test_A6b_leading_look_aheads_are_enforced_as_python_reads_them(count: int):
    rng = random.Random(17)
    texts = {"".join(rng.choices("abc1", k=rng.randint(0, 6))) for _ in range(400)}
    wrong: list[str] = []
    for _ in range(count):
        pattern = random_pattern(rng)
        judge = re.compile(pattern.replace("$", r"\Z"))
        fitting = {text for text in texts if judge.search(text)}
        try:
            matcher = GRAMMARS.matcher({"type": "string", "pattern": pattern})
        except SchemaError as error:
            wrong += [f"{pattern} is refused ({error}), but {fitting} fit"] * bool(
                fitting or "no value" not in error.why
            )
            continue
        for text in texts:
            tokens = small().encode(json.dumps(text))
            consumed = matcher.try_consume_tokens(tokens)
            if (consumed == len(tokens) and matcher.is_accepting()) != (text in fitting):
                wrong.append(f"{pattern}: {text!r} {'is' if text in fitting else 'is not'} to be allowed")
            matcher.rollback(consumed)
    assert wrong == []


@pytest.mark.parametrize(
    ("pattern", "good", "bad"),
    [
        (r"^(?=.*[A-Z])(?=.*\d).{8,}$", "Passw0rd", "password1"),
        (r"^(?!admin$)[a-z]+$", "administrator", "admin"),
        (r"^(?!.*(?:foo|bar))[a-z]+$", "fobar"[:4], "xbary"),
        (r"^(?!\s*$).+", " a", "  "),
        (r"^(?:(?!--).)*$", "a-b", "a--b"),
        (r"^(?!-)[a-z0-9-]{1,63}(?!-)$", "a-b", "-ab"),
        (r"^(?:(?=a)[a-z]{2}|(?!a)[a-z]{3})$", "ab", "abc"),
        (r"^[a-z]+(?=\.txt$)\.[a-z]+$", "a.txt", "a.csv"),
        (r"^(?=(?:.{2})*$)a*$", "aa", "aaa"),
    ],
)
def test_A6b_look_aheads_that_people_write(pattern: str, good: str, bad: str):
    assert matched(pattern, good)
    assert not matched(pattern, bad)


@pytest.mark.parametrize(
    "pattern",
    ["^a{100000}$", "^(?:a{400}){400}$", "^(?:ab){20000}$", "^a{9000}b{9000}$", "(?=a{20000})b"],
)
def test_K10_a_match_that_no_answer_has_room_for_is_refused(pattern: str):
    with pytest.raises(SchemaError, match="pattern at #/properties/a: its shortest match has") as refused:
        GRAMMARS.matcher({"type": "object", "properties": {"a": {"type": "string", "pattern": pattern}}})
    assert refused.value.keyword == "pattern"


@pytest.mark.parametrize(
    "pattern", [r"\ba", r"(a)\1", "(?<=a)b", "(?<!a)b", r"(?:(?=a)\w)*b", "(?:^a)*", "(?:a|^)*b", "(?<n>a)\\k<n>"]
)
def test_what_no_grammar_keeps_is_refused(pattern: str):
    with pytest.raises(ValueError, match=r"cannot be|repetition|ECMAScript"):
        pattern_language(pattern)
