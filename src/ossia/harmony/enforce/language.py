"""Regular languages: values that describe sets of strings, and their text in llguidance's grammar syntax.

In: nodes, made with `seq`, `alt`, `repeat`, `both`, `Not`, `literal`. Out: a Lark expression of a terminal, plain
(`plain_terminal`) or as a JSON string (`string_terminal`); and `matches`, which tests one string.
"""

import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import TypeAlias

LAST = 0x10FFFF
# JSON's short escapes for characters that must be escaped. Other such characters are not written.
ESCAPED = {'"': '"', "\\": "\\", "\n": "n", "\r": "r", "\t": "t", "\b": "b", "\f": "f"}
UNWRITTEN = ((0, 0x1F), (0x22, 0x22), (0x5C, 0x5C), (0x7F, 0x7F), (0xD800, 0xDFFF))
GENERAL = {
    "Letter": "L", "Cased_Letter": "LC", "Uppercase_Letter": "Lu", "Lowercase_Letter": "Ll", "Titlecase_Letter": "Lt",
    "Modifier_Letter": "Lm", "Other_Letter": "Lo", "Mark": "M", "Nonspacing_Mark": "Mn", "Spacing_Mark": "Mc",
    "Enclosing_Mark": "Me", "Number": "N", "Decimal_Number": "Nd", "Letter_Number": "Nl", "Other_Number": "No",
    "Punctuation": "P", "Connector_Punctuation": "Pc", "Dash_Punctuation": "Pd", "Open_Punctuation": "Ps",
    "Close_Punctuation": "Pe", "Initial_Punctuation": "Pi", "Final_Punctuation": "Pf", "Other_Punctuation": "Po",
    "Symbol": "S", "Math_Symbol": "Sm", "Currency_Symbol": "Sc", "Modifier_Symbol": "Sk", "Other_Symbol": "So",
    "Separator": "Z", "Space_Separator": "Zs", "Line_Separator": "Zl", "Paragraph_Separator": "Zp",
}  # fmt: skip
ALIASES = {"digit": "Nd", "punct": "P", **{name: name for name in GENERAL.values()}}
# Other properties. No character of ESCAPED has any of them.
BINARY = frozenset(
    "Alphabetic Alpha Uppercase Upper Lowercase Lower Emoji ID_Start ID_Continue XIDS XIDC IDS IDC".split()
)
SCRIPT = re.compile(r"(?!Zyyy|Common|Zinh|Inherited)[A-Z][A-Za-z_]*")
NO_CHARACTER = r"[^\x{0}-\x{10ffff}]"
Range: TypeAlias = tuple[int, int]


@dataclass(frozen=True)
class Chars:
    """One character: in `ranges`, or with a Unicode property in `properties` ("L"; "-L" for all others).

    negated: any character except those. Only sets with properties are negated; ranges are complemented by `turned`.
    """

    ranges: tuple[Range, ...]
    properties: tuple[str, ...] = ()
    negated: bool = False

    def has(self, character: str) -> bool:
        code = ord(character)
        found = any(low <= code <= high for low, high in self.ranges) or any(
            _has_property(character, name.removeprefix("-")) != name.startswith("-") for name in self.properties
        )
        return found != self.negated


@dataclass(frozen=True)
class Seq:
    """The parts, one after the other."""

    parts: tuple["Language", ...]


@dataclass(frozen=True)
class Alt:
    """Any one of the alternatives."""

    ways: tuple["Language", ...]


@dataclass(frozen=True)
class Repeat:
    """The body, `low` to `high` times; None for no limit."""

    body: "Language"
    low: int
    high: int | None


@dataclass(frozen=True)
class Both:
    """Strings that are in all parts."""

    parts: tuple["Language", ...]


@dataclass(frozen=True)
class Not:
    """Strings that are not in the body."""

    body: "Language"


@dataclass(frozen=True)
class Multiples:
    """Digits that are a multiple of `of`: a terminal of its own, which `multiples` writes."""

    of: int


Language: TypeAlias = Chars | Seq | Alt | Repeat | Both | Not | Multiples
EMPTY = Seq(())
NEVER = Alt(())
ANY_CHARACTER = Chars(((0, LAST),))
ANYTHING = Repeat(ANY_CHARACTER, 0, None)


def seq(*parts: Language) -> Language:
    flat: list[Language] = []
    for part in parts:
        flat += part.parts if isinstance(part, Seq) else (part,)
    if NEVER in flat:
        return NEVER
    return flat[0] if len(flat) == 1 else Seq(tuple(flat))


def alt(*ways: Language) -> Language:
    flat: dict[Language, None] = {}
    for way in ways:
        flat |= dict.fromkeys(way.ways if isinstance(way, Alt) else (way,))
    return next(iter(flat)) if len(flat) == 1 else Alt(tuple(flat))


def both(*parts: Language) -> Language:
    flat: dict[Language, None] = {}
    for part in parts:
        flat |= dict.fromkeys(part.parts if isinstance(part, Both) else (part,))
    flat.pop(ANYTHING, None)
    if NEVER in flat:
        return NEVER
    without = [part.body for part in flat if isinstance(part, Not)]
    if len(without) > 1:  # one complement of a union: the automaton of an intersection grows with the product
        flat = dict.fromkeys(part for part in flat if not isinstance(part, Not))
        flat[Not(alt(*without))] = None
    return ANYTHING if not flat else next(iter(flat)) if len(flat) == 1 else Both(tuple(flat))


def repeat(body: Language, low: int, high: int | None) -> Language:
    if high == 0 or body == EMPTY:
        return EMPTY
    if body == NEVER:
        return EMPTY if low == 0 else NEVER
    return body if (low, high) == (1, 1) else Repeat(body, low, high)


def literal(text: str) -> Language:
    return seq(*(Chars(((ord(character), ord(character)),)) for character in text))


def turned(ranges: Iterable[Range]) -> tuple[Range, ...]:
    """All characters outside these ranges."""
    found, start = [], 0
    for low, high in sorted(ranges):
        if low > start:
            found.append((start, low - 1))
        start = max(start, high + 1)
    return (*found, (start, LAST)) if start <= LAST else tuple(found)


def property_of(name: str) -> str:
    """A Unicode property as `Chars` holds it. Raises ValueError for an unknown one."""
    kind, _, value = name.rpartition("=")
    if kind in ("", "gc", "General_Category") and (category := GENERAL.get(value) or ALIASES.get(value)):
        return category
    if (kind in ("Script", "sc") and SCRIPT.fullmatch(value)) or name in BINARY:
        return name
    raise ValueError(f"the property {name!r} is not known here: use a general category such as L or Letter")


def _has_property(character: str, name: str) -> bool:
    if "=" in name or name in BINARY:
        if character in ESCAPED:
            return False
        raise ValueError(f"whether {character!r} has the property {name!r} is not known here")
    found = unicodedata.category(character)
    return found in ("Lu", "Ll", "Lt") if name == "LC" else found.startswith(name)


@lru_cache(maxsize=4096)
def shortest(language: Language) -> int:
    """A lower bound for the length of the language's strings. Exact without `Both` and `Not`."""
    match language:
        case Chars() | Multiples():
            return 1
        case Seq(parts):
            return sum(map(shortest, parts))
        case Alt(ways):
            return min(map(shortest, ways), default=0)
        case Repeat(body, low):
            return low * shortest(body)
        case Both(parts):
            return max(map(shortest, parts))
        case Not():
            return 0


def is_nullable(language: Language) -> bool:
    """Whether the language contains the empty string."""
    match language:
        case Chars() | Multiples():
            return False
        case Seq(parts) | Both(parts):
            return all(map(is_nullable, parts))
        case Alt(ways):
            return any(map(is_nullable, ways))
        case Repeat(body, low):
            return low == 0 or is_nullable(body)
        case Not(body):
            return not is_nullable(body)


def is_plain(language: Language) -> bool:
    """Whether a regular expression can express it, without intersections and complements."""
    match language:
        case Chars():
            return True
        case Seq(parts) | Alt(parts):
            return all(map(is_plain, parts))
        case Repeat(body):
            return is_plain(body)
        case Both() | Not() | Multiples():
            return False


def size(language: Language) -> int:
    match language:
        case Chars() | Multiples():
            return 1
        case Seq(parts) | Alt(parts) | Both(parts):
            return 1 + sum(map(size, parts))
        case Repeat(body) | Not(body):
            return 1 + size(body)


def intersections(language: Language) -> int:
    """How many languages intersect in it. An automaton may have two to that power states."""
    match language:
        case Chars() | Multiples():
            return 0
        case Seq(parts) | Alt(parts):
            return sum(map(intersections, parts))
        case Both(parts):
            return len(parts) - 1 + sum(map(intersections, parts))
        case Repeat(body) | Not(body):
            return intersections(body)


def matches(language: Language, text: str) -> bool:
    """Whether this string is in the language."""

    @cache
    def ends(node: Language, start: int) -> frozenset[int]:
        match node:
            case Chars():
                return frozenset((start + 1,) if start < len(text) and node.has(text[start]) else ())
            case Seq(parts):
                found = frozenset((start,))
                for part in parts:
                    found = frozenset(end for at in found for end in ends(part, at))
                return found
            case Alt(ways):
                return frozenset(end for way in ways for end in ends(way, start))
            case Both(parts):
                return frozenset.intersection(*(ends(part, start) for part in parts))
            case Not(body):
                return frozenset(range(start, len(text) + 1)) - ends(body, start)
            case Repeat(body, low, high):
                return _repeated(body, low, high, start)
            case Multiples():
                raise AssertionError("numbers are not matched as texts")

    def _repeated(body: Language, low: int, high: int | None, start: int) -> frozenset[int]:
        now, found, seen, count = frozenset((start,)), set[int](), set[frozenset[int]](), 0
        while now and (high is None or count <= high):
            if count >= low:
                if now <= found:
                    break
                found |= now
            elif now in seen and count > len(text):  # only empty matches are left
                count = low - 1
            seen.add(now)
            now = frozenset(end for at in now for end in ends(body, at))
            count += 1
        return frozenset(found)

    return len(text) in ends(language, 0)


# Text


def plain_terminal(language: Language) -> str:
    """The language as a Lark expression of a terminal."""
    return _expression(language, quoted=False)


def is_surely_empty(language: Language) -> bool | None:
    """Whether no string of the language can be written in JSON; None if that needs an automaton."""
    match language:
        case Chars(ranges, properties):
            return not (properties or _without(ranges, UNWRITTEN) or any(map(language.has, ESCAPED)))
        case Repeat(body, low):
            return False if low == 0 else is_surely_empty(body)
        case Seq(parts) | Alt(parts):
            found = [is_surely_empty(part) for part in parts]
            if isinstance(language, Alt):
                return False if False in found else None if None in found else True
            return True if True in found else None if None in found else False
        case Both(parts):
            heads = [_head(part) for part in parts]
            apart = any(
                _are_apart(*pair) for n, one in enumerate(heads) for other in heads[:n] for pair in zip(one, other)
            )
            return True if apart else None
        case Not() | Multiples():
            return None


def _head(language: Language) -> tuple[Chars, ...]:
    """The characters that every string of the language begins with, in order."""
    if isinstance(language, Chars):
        return (language,)
    found: list[Chars] = []
    for part in language.parts if isinstance(language, Seq) else ():
        if not isinstance(part, Chars):
            break
        found.append(part)
    return tuple(found)


def _are_apart(one: Chars, other: Chars) -> bool:
    if one.properties or other.properties:
        return False
    return all(high < start or end < low for low, high in one.ranges for start, end in other.ranges)


def string_terminal(language: Language) -> str:
    """JSON strings in quotes, whose values are in the language, as a Lark expression of a terminal."""
    match language:
        case Both(parts):
            return f"({' & '.join(map(_part, _with_a_positive(parts)))})"
        case Not():
            return string_terminal(Both((language,)))
        case Alt(ways) if not is_plain(language):
            return f"({' | '.join(map(string_terminal, ways))})"
        case _ if is_plain(language):
            return f'/"{_grouped(language, True, isinstance(language, Alt))}"/'
    return f'(/"/ {_expression(language, quoted=True)} /"/)'


def _part(language: Language) -> str:
    """A part of an intersection. The complement of a string may be any text, because another part is a string."""
    return f"(~{string_terminal(language.body)})" if isinstance(language, Not) else string_terminal(language)


def _with_a_positive(parts: tuple[Language, ...]) -> tuple[Language, ...]:
    return (ANYTHING, *parts) if all(isinstance(part, Not) for part in parts) else parts


def _expression(language: Language, quoted: bool) -> str:
    if is_plain(language):
        return f"/{_regex(language, quoted) or '(?:)'}/"

    def each(parts: tuple[Language, ...], between: str) -> str:
        return f"({between.join(_expression(part, quoted) for part in parts)})"

    match language:
        case Seq(parts):
            return each(parts, " ")
        case Alt(ways):
            return each(ways, " | ")
        case Both(parts):
            return each(parts, " & ")
        case Not(body):
            return f"({_expression(ANYTHING, quoted)} & (~{_expression(body, quoted)}))"
        case Repeat(body, low, high):
            return f"({_expression(body, quoted)}){{{low},{'' if high is None else high}}}"
        case Multiples(of):
            return f"MULTIPLE_{of}"
        case Chars():
            raise AssertionError("a character is plain")


def _regex(language: Language, quoted: bool) -> str:
    match language:
        case Chars():
            return _characters(language, quoted)
        case Seq(parts):
            return "".join(_grouped(part, quoted, isinstance(part, Alt)) for part in parts)
        case Alt(ways):
            return "|".join(_regex(way, quoted) for way in ways) if ways else NO_CHARACTER
        case Repeat(body, low, high):
            body = _grouped(body, quoted, not isinstance(body, Chars))
            marks = {(0, None): "*", (1, None): "+", (0, 1): "?"}
            counts = f"{low}" if low == high else f"{low},{'' if high is None else high}"
            return body + marks.get((low, high), f"{{{counts}}}")
        case Both() | Not() | Multiples():
            raise AssertionError("it is not plain")


def _grouped(language: Language, quoted: bool, group: bool) -> str:
    text = _regex(language, quoted)
    return f"(?:{text})" if group else text


@lru_cache(maxsize=4096)
def _characters(chars: Chars, quoted: bool) -> str:
    if not quoted:
        return _class(chars.ranges) if not chars.properties else _with_properties(chars)
    if chars.properties:
        raw = f"[{_with_properties(chars)}&&{_class(turned(UNWRITTEN))}]"
    else:
        raw = _class(_without(chars.ranges, UNWRITTEN))
    escapes = "".join(_character(letter) for character, letter in ESCAPED.items() if chars.has(character))
    ways = [each for each in (raw, rf"\x5c[{escapes}]" if escapes else "") if each]
    return f"(?:{'|'.join(ways)})" if escapes else raw or NO_CHARACTER


def _without(ranges: Iterable[Range], others: Iterable[Range]) -> tuple[Range, ...]:
    return turned((*turned(ranges), *others))


def _class(ranges: Iterable[Range]) -> str:
    """A Rust character class; "" for no character. Surrogates are not characters."""
    found = list(_without(ranges, ((0xD800, 0xDFFF),)))
    if len(found) == 1 and found[0][0] == found[0][1]:
        return _character(chr(found[0][0]))
    body = "".join(
        _character(chr(low)) if low == high else f"{_character(chr(low))}-{_character(chr(high))}"
        for low, high in found
    )
    return f"[{body}]" if body else ""


def _with_properties(chars: Chars) -> str:
    text = "".join(rf"\{'P' if name.startswith('-') else 'p'}{{{name.removeprefix('-')}}}" for name in chars.properties)
    body = _class(chars.ranges).removeprefix("[").removesuffix("]")
    return f"[{'^' if chars.negated else ''}{body}{text}]"


def _character(character: str) -> str:
    return character if character.isascii() and character.isalnum() else rf"\x{{{ord(character):x}}}"
