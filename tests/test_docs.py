"""The documentation's code runs: every Python block, in the order of its page, in one namespace a page."""

import contextlib
import io
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "README.ja.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"^```python\n(.*?)^```", re.M | re.S)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_python_blocks_run(page: Path):
    names: dict[str, object] = {}
    for number, code in enumerate(BLOCK.findall(page.read_text("utf-8")), 1):
        with contextlib.redirect_stdout(io.StringIO()):
            exec(compile(code, f"{page.name} block {number}", "exec"), names)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_between_pages_lead_somewhere(page: Path):
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text("utf-8")):
        if "://" not in target:
            assert (page.parent / target).exists(), target


@pytest.mark.parametrize("name", ["README", "docs/python"])
def test_pages_show_the_same_in_both_languages(name: str):
    """The same commands and the same code stand in the English and the Japanese page."""
    english, japanese = ((ROOT / f"{name}{language}.md").read_text("utf-8") for language in ("", ".ja"))
    blocks = re.compile(r"^```\w*\n(.*?)^```", re.M | re.S)
    assert blocks.findall(english) == blocks.findall(japanese)
