"""Forms of an answer that are not JSON schemas: a regular expression, a choice of texts, or a grammar.

In: a `TextGrammar`. Out: its llguidance grammar, or a SchemaError. Sizes are checked before any work.
"""

import json
import re

from llguidance import LLMatcher
from llguidance.gbnf_to_lark import gbnf_to_lark

from ossia.harmony.enforce.errors import SchemaError
from ossia.harmony.messages import TextGrammar

MAX_LENGTH = 1 << 16  # characters of a form
MAX_CHOICES = 5000
# The ASCII meaning, which all dialects share. Unicode's digits differ between library versions.
ASCII = {"d": "[0-9]", "w": "[0-9A-Za-z_]", "s": r"[\t-\r ]"}
# Lark's tree-shaping prefixes "?rule:" and "!rule:", which have no meaning for a mask.
TREE_MARKS = re.compile(r"^[?!]+(?=\w+(?:\.-?\d+)?\s*:)", re.MULTILINE)


def text_grammar(form: TextGrammar) -> str:
    """The grammar for llguidance. Raises SchemaError for a form that is too long or cannot be read."""
    if sum(map(len, form.texts)) > MAX_LENGTH:
        raise refused(form, f"it has more than {MAX_LENGTH} characters")
    try:
        match form.kind:
            case "regex":
                return LLMatcher.grammar_from_regex(_rust_regex(form.texts[0]))
            case "choice":
                return LLMatcher.grammar_from_lark(_choice(form))
            case "grammar":
                return LLMatcher.grammar_from_lark(_lark(form.texts[0]))
    except (ValueError, RecursionError) as error:
        raise refused(form, str(error) or "it is nested too deep") from error


def refused(form: TextGrammar, reason: str) -> SchemaError:
    """The error for a form that cannot be enforced."""
    whose = f"the answer's {form.kind} cannot be enforced"
    return SchemaError("", "", reason, whose, param="response_format", code="invalid_grammar")


def _rust_regex(pattern: str) -> str:
    """A Python pattern converted for Rust's regex. It matches no string that the given one does not."""
    out: list[str] = []
    at, in_class, negated = 0, False, False
    while at < len(pattern):
        character, width = pattern[at], 1
        if character == "\\":
            width = 2
            narrow = ASCII.get(pattern[at + 1 : at + 2])
            out.append(narrow if narrow and not negated else pattern[at : at + 2])
        elif in_class:
            # in Rust these begin a nested class or a set operation
            out.append(f"\\{character}" if character in "[&~" else character)
            in_class = character != "]"
            negated = negated and in_class
        elif character == "[":
            start = re.compile(r"\[\^?\]?").match(pattern, at)
            assert start, "a class begins here"
            negated, in_class, width = "^" in start[0], True, len(start[0])
            out.append(start[0])
        else:
            out.append(character)
        at += width
    return "".join(out)


def _choice(form: TextGrammar) -> str:
    if not form.texts or len(form.texts) > MAX_CHOICES or not any(form.texts):
        raise refused(form, f"want 1 to {MAX_CHOICES} texts, not all of them empty")
    return f"start: {' | '.join(json.dumps(text, ensure_ascii=False) for text in form.texts)}"


def _lark(text: str) -> str:
    """The text in Lark syntax: GBNF and the EBNF of other servers define rules by "::=", Lark by ":"."""
    if "::=" in text:
        try:
            return gbnf_to_lark(text)
        except Exception as error:  # its errors have no common base class
            raise ValueError(f"the GBNF grammar cannot be read: {error}") from error
    return TREE_MARKS.sub("", text)
