"""Prose in code and documents is plain: no riddles of the list below, and lines of documents are short."""

import ast
import io
import re
import tokenize
from pathlib import Path

import pytest

import ossia

PACKAGE = Path(ossia.__file__).parent
ROOT = Path(__file__).parents[1]
BANNED = {
    "nobody": r"\bnobody\b",
    "whoever": r"\bwhoever\b",
    "somebody": r"\bsomebody\b",
    "by turns": r"\bby turns\b",
    "so many": r"\bso many\b",
    "what suits": r"\bwhat suits\b",
    "who asks": r"\bwho (asks|reads|waits|leaves|wants|has it)\b",
    "goes on": r"\b(goes|go|going|went) on (from|as|with)\b",
    "is told": r"\b(is|are|was|were|be) told\b(?! apart)",
    "as it likes": r"\bas (it|they) likes?\b",
    "the one behind": r"\bthe ones? behind\b",
    "behind the other": r"\bone behind (the other|another)\b",
    "as it stands": r"\bas (it|they) stands?\b",
    "lets go": r"\b(lets?|letting) go of\b",
    "what of it": r"\bwhat of (it|a|an|the)\b",
    "said of": r"\bsaid of\b",
    "has its say": r"\bhas its say\b",
    "of its own accord": r"\bof its own accord\b",
}
DOCUMENTS = [
    ROOT / "README.md",
    *(ROOT / name for name in ("CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md")),
    *sorted((ROOT / "docs").glob("*.md")),
]
LINE = 120  # characters


def prose(path: Path) -> list[tuple[int, str]]:
    """The docstrings and comments of a file, each with the line it begins at."""
    text = path.read_text("utf-8")
    found = [
        (token.start[0], token.string)
        for token in tokenize.generate_tokens(io.StringIO(text).readline)
        if token.type == tokenize.COMMENT
    ]
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    nodes = [node for node in ast.walk(ast.parse(text)) if isinstance(node, documented)]
    return found + [(node.body[0].lineno, docstring) for node in nodes if (docstring := ast.get_docstring(node))]


def slips(text: str) -> list[str]:
    plain = re.sub(r"\s+", " ", text)
    return [name for name, pattern in BANNED.items() if re.search(pattern, plain, re.I)]


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_docstrings_and_comments_are_plain(path: Path):
    assert not [(line, found) for line, text in prose(path) if (found := slips(text))]


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_documents_are_plain(path: Path):
    if path.name.endswith(".ja.md"):
        pytest.skip("Japanese")
    outside = re.sub(r"^```.*?^```", "", path.read_text("utf-8"), flags=re.M | re.S)
    assert not [(line, found) for line in outside.splitlines() if (found := slips(line))]


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_lines_of_documents_are_short(path: Path):
    """Outside of tables and blocks of code, which cannot be wrapped."""
    outside = re.sub(r"^```.*?^```", "", path.read_text("utf-8"), flags=re.M | re.S)
    long = [line for line in outside.splitlines() if len(line) > LINE and not line.lstrip().startswith("|")]
    assert not [line for line in long if " " in line.strip()[:LINE]]
