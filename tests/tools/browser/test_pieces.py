"""Long texts are worked on in pieces, with the same result as in one."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ossia.tools.browser import pieces
from ossia.tools.browser.html_text import html_to_text, plain_text
from ossia.tools.browser.page import wrapped
from ossia.tools.browser.pieces import BEFORE_NEWLINE, BEFORE_SPACE, cut

TEXT = st.lists(st.sampled_from(["a", "word", " ", "  ", "\n", "\t", "- ", "1. ", "+", "-", "東京", "【", "😀", "\u00a0", "\r", "a-b", "--", "."]), max_size=60).map("".join)  # fmt: skip


@given(TEXT, st.integers(1, 9), st.sampled_from([BEFORE_NEWLINE, BEFORE_SPACE]))
def test_the_pieces_are_the_text(text: str, size: int, boundary):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pieces, "PIECE", size)
        found = list(cut(text, boundary))
    assert "".join(found) == text
    assert all(piece for piece in found) or found == [""]


@given(
    TEXT, st.integers(1, 9), st.sampled_from(["{}", "<p>{}<b>{}</b>", "<pre>{}", "<s>{}</s>{}", "<ul><li>{}<pre>{}"])
)
def test_a_page_in_pieces_is_the_same(text: str, size: int, form: str):
    html = form.replace("{}", text)
    whole = html_to_text(html, "https://a.test/"), plain_text(text), wrapped(text * 4)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pieces, "PIECE", size)
        assert (html_to_text(html, "https://a.test/"), plain_text(text), wrapped(text * 4)) == whole
