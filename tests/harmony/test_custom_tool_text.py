"""A custom tool's text comes piece by piece as its JSON does, and nothing is lost where it is no such JSON."""

import json
from itertools import pairwise

from hypothesis import example, given
from hypothesis import strategies as st

from ossia.harmony.custom_tool_text import FreeText

SPACES = st.text(" \n\t\r", max_size=3)


def pieces(text: str, cuts: list[int]) -> list[str]:
    places = sorted({0, len(text), *(cut % (len(text) + 1) for cut in cuts)})
    return [text[a:b] for a, b in pairwise(places)]


def read(text: str, cuts: list[int]) -> str:
    free = FreeText()
    return "".join([free.feed(piece) for piece in pieces(text, cuts)]) + free.finish()


@given(
    st.text(),
    st.booleans(),
    st.tuples(SPACES, SPACES, SPACES, SPACES, SPACES),
    st.lists(st.integers(0, 10**6), max_size=30),
)
@example('😀\\"\n', True, ("", "", "", "", ""), list(range(60)))
def test_the_text_is_the_arguments_however_it_is_cut(text: str, escaped: bool, space: tuple[str, ...], cuts: list[int]):
    a, b, c, d, e = space
    written = f'{a}{{{b}"input"{c}:{d}{json.dumps(text, ensure_ascii=escaped)}{e}}}{a}'
    assert read(written, cuts) == text


@given(st.text(alphabet='{}"input: \\ud83dx\n', max_size=40), st.lists(st.integers(0, 100), max_size=10))
def test_what_is_no_such_json_is_given_whole(text: str, cuts: list[int]):
    said = read(text, cuts)
    if said != text:
        assert text.lstrip().startswith("{")
        assert '"input"' in text


def test_a_text_that_was_cut_off_ends_where_it_was_cut():
    assert read('{"input": "one\\ntw', []) == "one\ntw"
    assert read('{"input": "done"', []) == "done"
    assert read('{"inp', []) == '{"inp'
    assert read('{"input": "a" , "b": 1}', []) == 'a" , "b": 1}'


def test_half_a_surrogate_pair_cannot_be_said_in_utf_8():
    assert read('{"input": "\\ud83d!\\ude00"}', []) == "\ufffd!\ufffd"


def test_text_comes_as_soon_as_it_is_known():
    free = FreeText()
    assert [free.feed(piece) for piece in ['{"input"', ': "se', "lect", "\\", "n1", '"', "}"]] == [
        "",
        "se",
        "lect",
        "",
        "\n1",
        "",
        "",
    ]
