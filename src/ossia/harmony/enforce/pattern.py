"""A JSON schema's regular expression, which is ECMAScript's, said in the dialect that llguidance reads, which is Rust's.

In: a pattern. Out: the pattern that matches the same strings; ValueError for what has no such form. It does not know
schemas. What both dialects read alike passes unchanged, and what neither the one nor llguidance knows is left to it.
"""

import re

LINE_ENDS = r"\n\r\u2028\u2029"
SPACE = r"\t-\r \u00a0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000\ufeff"
ESCAPES = {"s": f"[{SPACE}]", "S": f"[^{SPACE}]", "0": r"\x00"}
SAME = frozenset("dDwWtnrfv")  # followed by nothing, and read alike
GROUP = re.compile(r"\(\?(?::|P?<[A-Za-z_]\w*>|=|!|<=|<!)")  # look-around is llguidance's to refuse
NUMBERED = re.compile(r"\\(?:x[0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|u\{[0-9a-fA-F]+\}|[pP]\{[\w=]+\}|c[A-Za-z])")
SURROGATES = re.compile(r"\\u([dD][89abAB]..)\\u([dD][c-fC-F]..)")
IN_CLASS = frozenset("[&~")  # for Rust a class in a class or a set operation, for ECMAScript plain characters


def rust_pattern(pattern: str) -> str:
    """The same expression for llguidance. Raises ValueError for syntax that ECMAScript does not have."""
    out: list[str] = []
    at, in_class = 0, False
    while at < len(pattern):
        character = pattern[at]
        if character == "\\":
            said, width = _escape(pattern, at, in_class)
        elif in_class:
            said, width = _in_class(pattern, at)
            in_class = character != "]"
        elif character == "[":
            said, width = _class_start(pattern, at)
            in_class = not said.endswith("]")
        elif character == "(" and pattern.startswith("(?", at):
            group = GROUP.match(pattern, at)
            if not group:
                raise ValueError(
                    f"the group {pattern[at : at + 4]!r} is not ECMAScript's: write (?:…) and spell out flags"
                )
            said, width = group[0], len(group[0])
        else:
            said, width = f"[^{LINE_ENDS}]" if character == "." else character, 1
        out.append(said)
        at += width
    return "".join(out)


def _escape(pattern: str, at: int, in_class: bool) -> tuple[str, int]:
    """What the escape that begins at `at` is called in Rust, and how many characters it has here."""
    if pair := SURROGATES.match(pattern, at):
        high, low = (int(half, 16) for half in pair.groups())
        return rf"\u{{{0x10000 + ((high - 0xD800) << 10) + (low - 0xDC00):x}}}", pair.end() - at
    if number := NUMBERED.match(pattern, at):
        said = number[0]
        return (rf"\x{ord(said[2]) % 32:02x}" if said[1] == "c" else said), len(said)
    name = pattern[at + 1 : at + 2]
    if name in ESCAPES and not (name == "0" and pattern[at + 2 : at + 3].isdigit()):
        return ESCAPES[name], 2
    if name == "b" and in_class:
        return r"\x08", 2
    if name in SAME or name in ("b", "B") or (name.isdigit() and not in_class):  # llguidance refuses these itself
        return f"\\{name}", 2
    if not name or name.isalnum():
        raise ValueError(f"the escape {pattern[at : at + 2]!r} is not ECMAScript's")
    return (name if name in "\"'`@#%,:;<>=!_ /" or ord(name) > 127 else f"\\{name}"), 2


def _in_class(pattern: str, at: int) -> tuple[str, int]:
    character = pattern[at]
    if pattern.startswith("--", at):  # Rust takes them for a subtraction
        raise ValueError("two hyphens in a row within [ ] can be read in two ways: escape the one that is a character")
    return (f"\\{character}" if character in IN_CLASS else character), 1


def _class_start(pattern: str, at: int) -> tuple[str, int]:
    """An opening bracket; where it closes at once the class is empty, or everything, which Rust cannot say so."""
    if pattern.startswith("[^]", at):
        return r"[\x00-\u{10ffff}]", 3
    if pattern.startswith("[]", at):
        return r"[^\x00-\u{10ffff}]", 2
    return ("[^", 2) if pattern.startswith("[^", at) else ("[", 1)
