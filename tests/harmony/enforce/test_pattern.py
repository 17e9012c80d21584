"""Patterns: read as ECMAScript reads them, whatever llguidance's dialect makes of the same characters."""

import contextlib
import json

import jsonschema_rs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ossia.harmony.constrain import Grammars
from ossia.harmony.enforce.pattern import rust_pattern
from tests.vocabularies import small

GRAMMARS = Grammars(small())
LETTERS = "ab&-~[]c:lph/é😀_+,.\\\"'@#=<>!%`;^A$|1 \n\t\v\u00a0\ufeff\x85\u0663"
STRINGS = ["", *LETTERS, *(first + second for first in "ab&-]c" for second in "ab]&-")]


def matched(pattern: str, text: str) -> bool:
    matcher = GRAMMARS.matcher({"type": "string", "pattern": pattern})
    tokens = small().encode(json.dumps(text, ensure_ascii=False))
    return matcher.try_consume_tokens(tokens) == len(tokens) and matcher.is_accepting()


@pytest.mark.parametrize(
    "pattern",
    r"^[a&&b]$ ^[a[b]c]$ ^[a~~b]$ ^[[:alpha:]]$ ^[a-z&&[^b]]$ ^\/$ ^\p{L}$ ^\-$ ^\s$ ^\S$ ^[^\s]$ ^[^\S]$ ^[\s\S]$ ^\w$ ^\W$ ^\d$ ^\D$ ^[\w-]$ "
    r"^[a\-z]$ ^[\]]$ ^[\\]$ ^[\d\-]$ ^(?<n>a)$ ^(?:a|b)$ ^\u0041$ ^\u{41}$ \$ ^\$$ ^[.]$ ^\.$ ^[|]$ ^[&]$ ^a|b$ (^a)|(b$) [^a]$ a$|^b ^$ ^a{2,}$".split(),
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
    [r"^\a", r"\A", r"\z", r"\Z", "(?i)a", "(?x) a", "(?P=n)", "[a-c--b]", "[^--a]", "a\\", r"[\1]", r"\x{41}", r"\pL"],
)
def test_what_is_not_ecmascript_is_refused(pattern: str):
    with pytest.raises(ValueError, match=r"ECMAScript|two ways"):
        rust_pattern(pattern)


@settings(max_examples=300, deadline=None)
@given(st.text(st.sampled_from("ab[](){}|^$.*+?\\-&~sSdwbcuxpP0123:<=!,"), max_size=12))
def test_any_text_is_a_pattern_or_refused(pattern: str):
    with contextlib.suppress(ValueError):
        assert isinstance(rust_pattern(pattern), str)
