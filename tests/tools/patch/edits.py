"""Random files, random edits of them, and the patches that describe the edits."""

import random
from difflib import SequenceMatcher
from typing import NamedTuple

LINES = (
    "", " ", "  ", "\t", "x", "y", "z", "x ", " x", "@@", "@@ x", "+x", "-", "- x", "*** End Patch", "*** Begin Patch",
    "*** Update File: a", "*** End of File", "\\ No newline at end of file", "def f():", "    return 1", "    return 2",
    "}", "é", "世界", "\u2018q\u2019", "'q'", "a\u2028b", "a\rb", "a\x0cb", "🌍",
)  # fmt: skip


class Edit(NamedTuple):
    """A file before and after, and the hunks between the two, without envelope."""

    before: str
    after: str
    diff: str


def edit(rng: random.Random, newline: str = "\n", may_lack_newline: bool = True) -> Edit:
    """A random edit. Files mostly have repeated lines, so hunks need enough context to be found."""
    pool = rng.sample(LINES, rng.randint(2, len(LINES)))
    old = [rng.choice(pool) for _ in range(rng.randrange(rng.choice((4, 20, 60))))]
    new = list(old)
    for _ in range(rng.randint(1, 5)):
        at, gone = rng.randint(0, len(new)), rng.choice((0, 0, 1, 1, 2, 5))
        new[at : at + gone] = [rng.choice(pool) for _ in range(rng.choice((0, 1, 1, 3)))]
    if new == old:
        new.append("end")
    final = newline
    if may_lack_newline and old and old[-1] and (not new or new[-1]) and rng.random() < 0.2:
        final = ""
    return Edit(text_of(old, newline, final), text_of(new, newline, final), diff_of(rng, old, new))


def text_of(lines: list[str], newline: str, final: str) -> str:
    return newline.join(lines) + (final if lines else "")


def diff_of(rng: random.Random, old: list[str], new: list[str]) -> str:
    """Hunks with as little context as finds their place, or more."""
    context = rng.randint(0, 3)
    while True:
        groups = SequenceMatcher(None, old, new, autojunk=False).get_grouped_opcodes(context)
        hunks = [_hunk(group, old, new) for group in groups]
        cursor, found = 0, True
        for start, lines, _ in hunks:
            kept = [line[1:] for line in lines if line[0] != "+"]
            found &= bool(kept or not old) and _first(old, kept, cursor) == start
            cursor = start + len(kept)
        if found or context > len(old):
            break
        context += 1
    return "".join(
        "\n".join(["@@", *lines, *(["*** End of File"] if at_end else [])]) + "\n" for _, lines, at_end in hunks
    )


def _hunk(group: list[tuple[str, int, int, int, int]], old: list[str], new: list[str]) -> tuple[int, list[str], bool]:
    lines: list[str] = []
    for tag, i1, i2, j1, j2 in group:
        if tag == "equal":
            lines += [f" {line}" for line in old[i1:i2]]
            continue
        lines += [f"-{line}" for line in old[i1:i2]] + [f"+{line}" for line in new[j1:j2]]
    start, end = group[0][1], group[-1][2]
    unique = _first(old, old[start:end], 0) == start
    return start, lines, end == len(old) and unique and bool(start)


def _first(old: list[str], wanted: list[str], start: int) -> int | None:
    return next((at for at in range(start, len(old) + 1) if old[at : at + len(wanted)] == wanted), None)


def disturbed(rng: random.Random, made: Edit) -> Edit:
    """The edit with a diff as a model may write it: other white space, missing lines, headers, wrong lines."""
    lines = made.diff.split("\n")[:-1]
    old = made.before.replace("\r\n", "\n").split("\n")
    for _ in range(rng.randint(1, 3)):
        at = rng.randrange(len(lines))
        match rng.choice(("space", "space", "indent", "gone", "header", "header", "end", "wrong", "twice", "blank")):
            case "space":
                lines[at] += rng.choice((" ", "\t")) if lines[at][:1] in ("+", "-", " ") else ""
            case "indent":
                lines[at] = f"{lines[at][0]} {lines[at][1:]}" if lines[at][:1] in ("-", " ") else lines[at]
            case "gone":
                lines = lines[:at] + lines[at + 1 :] or ["@@"]
            case "header":
                lines = [f"@@ {rng.choice(old)}" if line == "@@" and rng.random() < 0.7 else line for line in lines]
                if rng.random() < 0.3:
                    lines.insert(0, f"@@ {rng.choice(old)}")
            case "end":
                lines.append("*** End of File")
            case "wrong":
                lines[at] = lines[at][:1] + rng.choice(LINES)
            case "twice":
                lines.insert(at, lines[at])
            case _:
                lines.insert(at, "")
    return made._replace(diff="\n".join(lines) + "\n")
