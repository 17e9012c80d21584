"""Forms of the answer that are no JSON schema: a regular expression, a choice among texts, or a grammar.

In: a `TextGrammar`. Out: llguidance's grammar of it, or a SchemaError with the reason. Sizes are bounded before any work.
"""

import json
import re

from llguidance import LLMatcher
from llguidance.gbnf_to_lark import gbnf_to_lark

from ossia.harmony.enforce.errors import SchemaError
from ossia.harmony.messages import TextGrammar

LONGEST = 1 << 16  # characters
MOST_CHOICES = 5000
# What every dialect means by these. Unicode's digits differ from one library's version to the next.
ASCII = {"d": "[0-9]", "w": "[0-9A-Za-z_]", "s": r"[\t-\r ]"}
# Lark's marks for the shape of a tree, which a mask does not have: "?rule:" and "!rule:".
TREE_MARKS = re.compile(r"^[?!]+(?=\w+(?:\.-?\d+)?\s*:)", re.MULTILINE)


def text_grammar(form: TextGrammar) -> str:
    """The grammar for llguidance. Raises SchemaError for a form that is too long or cannot be read."""
    if sum(map(len, form.texts)) > LONGEST:
        raise SchemaError("", "", f"it has more than {LONGEST} characters", whose(form))
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
    """Why the form cannot be enforced."""
    return SchemaError("", "", reason, whose(form))


def whose(form: TextGrammar) -> str:
    return f"the answer's {form.kind} cannot be enforced"


def _rust_regex(pattern: str) -> str:
    """A Python pattern for Rust's regex: the strings that it matches are matched by the given one."""
    out: list[str] = []
    at, in_class, negated = 0, False, False
    while at < len(pattern):
        character, width = pattern[at], 1
        if character == "\\":
            width = 2
            narrow = ASCII.get(pattern[at + 1 : at + 2])
            out.append(narrow if narrow and not negated else pattern[at : at + 2])
        elif in_class:
            # for Rust these begin a class in the class, or a set operation
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
    if not form.texts or len(form.texts) > MOST_CHOICES or not any(form.texts):
        raise refused(form, f"want 1 to {MOST_CHOICES} texts, not all of them empty")
    return f"start: {' | '.join(json.dumps(text, ensure_ascii=False) for text in form.texts)}"


def _lark(text: str) -> str:
    """GBNF and the EBNF of other servers define by "::=", Lark by ":"."""
    if "::=" in text:
        try:
            return gbnf_to_lark(text)
        except Exception as error:  # its errors have no common base
            raise ValueError(f"the GBNF grammar cannot be read: {error}") from error
    return TREE_MARKS.sub("", text)
