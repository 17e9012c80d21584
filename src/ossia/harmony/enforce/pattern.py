"""Converts a JSON schema's regular expression (ECMAScript) to a regular language.

In: a pattern. Out: the language of the strings that contain a match; ValueError for a part without such a form.
Look-aheads become intersections and complements with what follows. Back references, word boundaries and look-behind
are refused, and so is a look-ahead inside a repetition, except `(?:(?!x).)*$`.
"""

import re
from dataclasses import dataclass
from typing import TypeAlias

from ossia.harmony.enforce.language import (
    ANY_CHARACTER,
    ANYTHING,
    EMPTY,
    NEVER,
    Chars,
    Language,
    Not,
    Range,
    alt,
    both,
    intersections,
    is_nullable,
    property_of,
    repeat,
    seq,
    shortest,
    size,
    turned,
)

NODES = 20_000  # the most nodes of a pattern with expanded look-aheads
DEPTH = 50  # of nesting
MEETING = 10  # the most look-aheads that apply at the same place
MAX_SHORTEST = 16_384  # characters of the shortest match
UNROLLED = 8  # the most repetitions of a part with a look-ahead or an anchor

DIGIT: tuple[Range, ...] = ((48, 57),)
WORD: tuple[Range, ...] = ((48, 57), (65, 90), (95, 95), (97, 122))
SPACE: tuple[Range, ...] = (
    *((9, 13), (0x20, 0x20), (0xA0, 0xA0), (0x1680, 0x1680), (0x2000, 0x200A)),
    *((0x2028, 0x2029), (0x202F, 0x202F), (0x205F, 0x205F), (0x3000, 0x3000), (0xFEFF, 0xFEFF)),
)
DOT = Chars(turned(((10, 10), (13, 13), (0x2028, 0x2029))))
CLASSES = {"d": DIGIT, "w": WORD, "s": SPACE, "D": turned(DIGIT), "W": turned(WORD), "S": turned(SPACE)}
CONTROLS = {"t": 9, "n": 10, "v": 11, "f": 12, "r": 13}
NUMBERED = re.compile(r"x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|u\{([0-9a-fA-F]{1,6})\}")
PAIR = re.compile(r"u([dD][89abAB][0-9a-fA-F]{2})\\u([dD][c-fC-F][0-9a-fA-F]{2})")
PROPERTY = re.compile(r"([pP])\{([\w=]+)\}")
COUNTS = re.compile(r"\{([0-9]{1,12})(?:(,)([0-9]{0,12}))?\}")
NAMED_GROUP = re.compile(r"\?P?<[A-Za-z_$][\w$]*>")
LOOKS = {"?=": True, "?!": False}


@dataclass(frozen=True)
class _Anchor:
    """^ or $."""

    start: bool


@dataclass(frozen=True)
class _LookAhead:
    """A look-ahead."""

    body: "_Tree"
    positive: bool


@dataclass(frozen=True)
class _Sequence:
    parts: tuple["_Tree", ...]


@dataclass(frozen=True)
class _Choice:
    ways: tuple["_Tree", ...]


@dataclass(frozen=True)
class _Repetition:
    body: "_Tree"
    low: int
    high: int | None


_Tree: TypeAlias = Chars | _Anchor | _LookAhead | _Sequence | _Choice | _Repetition


def pattern_language(pattern: str) -> Language:
    """The strings in which ECMAScript finds the pattern. Raises ValueError if it cannot be enforced."""
    tree = _Parser(pattern).parse()
    if not _has_anchor(tree, start=True):
        found = seq(ANYTHING, _language(tree, ANYTHING, None))
    else:
        later = _language(tree, ANYTHING, start=False)
        found = alt(_language(tree, ANYTHING, start=True), seq(ANY_CHARACTER, ANYTHING, later))
    if size(found) > NODES:
        raise ValueError(f"it has more than {NODES} parts once its look-aheads are expanded")
    if intersections(found) > MEETING:
        raise ValueError(f"more than {MEETING} look-aheads of it must hold at once")
    if (length := shortest(found)) > MAX_SHORTEST:
        raise ValueError(f"its shortest match has {length} characters; at most {MAX_SHORTEST} can be enforced")
    return found


# Trees to languages


def _is_plain(tree: _Tree) -> bool:
    match tree:
        case Chars():
            return True
        case _Anchor() | _LookAhead():
            return False
        case _Sequence(parts) | _Choice(parts):
            return all(map(_is_plain, parts))
        case _Repetition(body):
            return _is_plain(body)


def _has_anchor(tree: _Tree, start: bool) -> bool:
    match tree:
        case Chars():
            return False
        case _Anchor():
            return tree.start == start
        case _Sequence(parts) | _Choice(parts):
            return any(_has_anchor(part, start) for part in parts)
        case _Repetition(body) | _LookAhead(body):
            return _has_anchor(body, start)


def _plain(tree: _Tree) -> Language:
    match tree:
        case Chars():
            return tree
        case _Sequence(parts):
            return seq(*map(_plain, parts))
        case _Choice(ways):
            return alt(*map(_plain, ways))
        case _Repetition(body, low, high):
            return repeat(_plain(body), low, high)
        case _Anchor() | _LookAhead():
            raise AssertionError("not plain")


def _language(tree: _Tree, rest: Language, start: bool | None) -> Language:
    """What the tree matches, followed by `rest`. start: whether this is the start of the string; None: possibly."""
    if _is_plain(tree):
        return seq(_plain(tree), rest)
    match tree:
        case _Anchor(start=True):
            if start is None:
                raise ValueError("^ follows a part that may be empty: put it at the beginning of the pattern")
            return rest if start else NEVER
        case _Anchor():
            return EMPTY if is_nullable(rest) else NEVER
        case _LookAhead(body, positive):
            ahead = _language(body, ANYTHING, start)
            return both(ahead if positive else Not(ahead), rest)
        case _Choice(ways):
            return alt(*(_language(way, rest, start) for way in ways))
        case _Sequence(parts):
            return _sequence(parts, rest, start)
        case _Repetition():
            return _repetition(tree, rest, start)
        case Chars():
            raise AssertionError("a character is plain")


def _sequence(parts: tuple[_Tree, ...], rest: Language, start: bool | None) -> Language:
    starts: list[bool | None] = []
    for part in parts:
        starts.append(start)
        low, high = _widths(part)
        start = start if not high else False if low or start is False else None
    for part, begins in zip(reversed(parts), reversed(starts)):
        rest = _language(part, rest, begins)
        if size(rest) > NODES:
            raise ValueError(f"it has more than {NODES} parts once its look-aheads are expanded")
    return rest


def _widths(tree: _Tree) -> tuple[int, int]:
    """The minimum and maximum width, as 0 or 1: whether it always consumes a character, and whether it ever does."""
    match tree:
        case Chars():
            return 1, 1
        case _Anchor() | _LookAhead():
            return 0, 0
        case _Sequence(parts):
            found = [_widths(part) for part in parts]
            return max((low for low, _ in found), default=0), max((high for _, high in found), default=0)
        case _Choice(ways):
            found = [_widths(way) for way in ways]
            return min(low for low, _ in found), max(high for _, high in found)
        case _Repetition(body, low, high):
            low, high = _widths(body)
            return low if low else 0, high if high != 0 else 0


def _repetition(tree: _Repetition, rest: Language, start: bool | None) -> Language:
    """A repeated part with look-aheads or anchors: written out if it repeats few times."""
    match tree.body:
        case _Sequence((_LookAhead(body, False), Chars() as each)) if rest == EMPTY and tree.high is None:
            if not _has_anchor(body, start=True):
                # the body begins nowhere in these characters, up to the end
                found = seq(ANYTHING, both(_language(body, ANYTHING, False), seq(each, ANYTHING)))
                return both(repeat(each, tree.low, None), Not(found))
    if tree.high is None or tree.high > UNROLLED:
        raise ValueError("a look-ahead or an anchor within a repetition cannot be enforced; write the repetitions out")
    for count in range(tree.high, 0, -1):
        more = _language(tree.body, rest_after := rest, start if count == 1 else None if start else start)
        rest = more if count <= tree.low else alt(rest_after, more)
    return rest


# Reading


class _Parser:
    def __init__(self, pattern: str) -> None:
        self.text, self.at, self.depth = pattern, 0, 0

    def parse(self) -> _Tree:
        tree = self._choice()
        if self.at < len(self.text):
            raise ValueError("a ) closes no group")
        return tree

    def _choice(self) -> _Tree:
        self.depth += 1
        if self.depth > DEPTH:
            raise ValueError(f"its groups are nested more than {DEPTH} deep")
        ways = [self._parts()]
        while self._takes("|"):
            ways.append(self._parts())
        self.depth -= 1
        return ways[0] if len(ways) == 1 else _Choice(tuple(ways))

    def _parts(self) -> _Tree:
        parts: list[_Tree] = []
        while self.at < len(self.text) and self.text[self.at] not in "|)":
            parts.append(self._counted(self._atom()))
        return parts[0] if len(parts) == 1 else _Sequence(tuple(parts))

    def _takes(self, text: str) -> bool:
        found = self.text.startswith(text, self.at)
        self.at += len(text) if found else 0
        return found

    def _atom(self) -> _Tree:
        character = self.text[self.at]
        self.at += 1
        match character:
            case "^" | "$":
                return _Anchor(character == "^")
            case ".":
                return DOT
            case "(":
                return self._group()
            case "[":
                return self._class()
            case "\\":
                return self._escape(in_class=False)
            case "*" | "+" | "?":
                raise ValueError(f"there is nothing before {character} to repeat")
            case "{" if COUNTS.match(self.text, self.at - 1):
                raise ValueError("there is nothing before { to repeat")
        return _one(ord(character))

    def _group(self) -> _Tree:
        if look := next((mark for mark in LOOKS if self.text.startswith(mark, self.at)), None):
            self.at += 2
            body = self._closed()
            return _LookAhead(body, LOOKS[look])
        if self.text.startswith(("?<=", "?<!"), self.at):
            raise ValueError("look-behind cannot be enforced")
        if name := NAMED_GROUP.match(self.text, self.at):
            self.at = name.end()
        elif not self._takes("?:") and self.text.startswith("?", self.at):
            shown = self.text[self.at - 1 : self.at + 3]
            raise ValueError(f"the group {shown!r} is not ECMAScript's: write (?:…) and spell out flags")
        return self._closed()

    def _closed(self) -> _Tree:
        body = self._choice()
        if not self._takes(")"):
            raise ValueError("a group is not closed")
        return body

    def _counted(self, atom: _Tree) -> _Tree:
        high: int | None
        if counts := COUNTS.match(self.text, self.at):
            low = int(counts[1])
            high = low if not counts[2] else int(counts[3]) if counts[3] else None
            self.at = counts.end()
        elif self.at < len(self.text) and self.text[self.at] in "*+?":
            low, high = int(self.text[self.at] == "+"), 1 if self.text[self.at] == "?" else None
            self.at += 1
        else:
            return atom
        self._takes("?")  # a lazy repetition matches the same strings
        if isinstance(atom, _Anchor):
            raise ValueError("an anchor cannot be repeated")
        if high is not None and low > high:
            raise ValueError(f"a repetition of {low} to {high} times is impossible")
        if max(low, high or 0) >= 2**31:
            raise ValueError("a repetition is of more than 2^31 times")
        return _Repetition(atom, low, high)

    def _escape(self, in_class: bool) -> Chars:
        """The escape after a backslash."""
        at, text = self.at, self.text
        if pair := PAIR.match(text, at):
            self.at = pair.end()
            high, low = (int(half, 16) for half in pair.groups())
            return _one(0x10000 + ((high - 0xD800) << 10) + (low - 0xDC00))
        if number := NUMBERED.match(text, at):
            self.at = number.end()
            return _one(min(int(next(filter(None, number.groups())), 16), 0x10FFFF))
        if named := PROPERTY.match(text, at):
            self.at = named.end()
            return Chars((), (f"{'-' if named[1] == 'P' else ''}{property_of(named[2])}",))
        name = text[at : at + 1]
        self.at += 1
        if name in CLASSES and name:
            return Chars(CLASSES[name])
        if name in CONTROLS and name:
            return _one(CONTROLS[name])
        if name == "0" and not text[at + 1 : at + 2].isdigit():
            return _one(0)
        if name == "c" and text[at + 1 : at + 2].isascii() and text[at + 1 : at + 2].isalpha():
            self.at += 1
            return _one(ord(text[at + 1]) % 32)
        if name == "b" and in_class:
            return _one(8)
        if name in ("b", "B") and name:
            raise ValueError("word boundaries cannot be enforced; write the allowed characters instead")
        if name.isdigit() and not in_class:
            raise ValueError("back references cannot be enforced; repeat the group's pattern instead")
        if not name or name.isalnum():
            raise ValueError(f"the escape {text[at - 1 : at + 1]!r} is not ECMAScript's")
        return _one(ord(name))

    def _class(self) -> Chars:
        """A class in brackets, after the opening one."""
        negated = self._takes("^")
        ranges: list[Range] = []
        properties: list[str] = []
        while not self._takes("]"):
            first = self._member()
            following = self.text[self.at : self.at + 2]
            if following[:1] == "-" and following not in ("-", "-]"):
                self.at += 1
                last = self._member()
                low, high = _only(first), _only(last)
                if low is not None and high is not None:
                    if low > high:
                        raise ValueError(
                            f"the range {chr(low)}-{chr(high)} of a class runs backwards, which is not ECMAScript's"
                        )
                    ranges.append((low, high))
                    continue
                ranges.append((45, 45))  # after a class such as \w it is a literal hyphen
                ranges += last.ranges
                properties += last.properties
            ranges += first.ranges
            properties += first.properties
        if properties:
            return Chars(tuple(ranges), tuple(properties), negated)
        return Chars(turned(ranges) if negated else tuple(sorted(set(ranges))))

    def _member(self) -> Chars:
        if self.at >= len(self.text):
            raise ValueError("a class [ is not closed")
        character = self.text[self.at]
        self.at += 1
        return self._escape(in_class=True) if character == "\\" else _one(ord(character))


def _one(code: int) -> Chars:
    return Chars(((code, code),))


def _only(chars: Chars) -> int | None:
    """The one character of a class; None if it has several."""
    if len(chars.ranges) == 1 and chars.ranges[0][0] == chars.ranges[0][1] and not chars.properties:
        return chars.ranges[0][0]
    return None
