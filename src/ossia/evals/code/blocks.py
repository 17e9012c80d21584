"""Code in a model's answer: fenced blocks of Markdown, and what they define.

In: the final text. Out: the blocks in order, or the one that defines a name.
"""

import ast
import re
from typing import NamedTuple

_FENCE = re.compile(r"^ {0,3}(`{3,}|~{3,})[ \t]*([^`\n]*)$")
_MOST_TEXT = 100_000  # characters that are parsed to see whether they are code


class CodeBlock(NamedTuple):
    """A fenced block. language: the first word after the fence, in small letters; "" if there is none."""

    language: str
    code: str


def code_blocks(text: str) -> list[CodeBlock]:
    """The fenced blocks in order. One that is not closed goes to the end."""
    blocks: list[CodeBlock] = []
    fence, language = "", ""
    lines: list[str] = []
    for line in text.splitlines():
        found = _FENCE.match(line)
        if not fence:
            if found:
                words = found[2].split()
                fence, language, lines = found[1], words[0].lower() if words else "", []
        elif found and not found[2].strip() and found[1][0] == fence[0] and len(found[1]) >= len(fence):
            blocks.append(CodeBlock(language, "\n".join(lines)))
            fence = ""
        else:
            lines.append(line)
    if fence:
        blocks.append(CodeBlock(language, "\n".join(lines)))
    return blocks


def block_with(text: str, name: str, last: bool = False) -> str | None:
    """The code that defines a function or class of this name; else any block; else the text if it is code.

    last: of several blocks that fit, the last one. None if the text holds no code.
    """
    codes = [block.code for block in code_blocks(text) if block.code.strip()]
    if last:
        codes.reverse()
    for code in codes:
        if defines(code, name):
            return code
    if codes:
        return codes[0]
    return text if defines(text, name) or _is_code(text) else None


def defines(code: str, name: str) -> bool:
    """Whether a function, class or variable of this name stands at the top of the code, which need not be complete."""
    return (
        re.search(rf"^(?:async\s+def|def|class)\s+{re.escape(name)}\b|^{re.escape(name)}\s*=", code, re.M) is not None
    )


def _is_code(text: str) -> bool:
    """Whether a text without fences is a function's body or a program. A sentence of one word is not."""
    if len(text) > _MOST_TEXT:
        return False
    try:
        parsed = ast.parse("def body():\n" + text) if text[:1] in (" ", "\t") else ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return any(not isinstance(node, ast.Expr) for node in parsed.body)
