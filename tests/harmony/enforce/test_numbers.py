"""Numbers within bounds: no spelling that is allowed lies outside them, and every plain decimal inside is allowed."""

from typing import Any

import pytest
from benchmarks.bounds import allows, study

from ossia.harmony.enforce import SchemaError, grammar_of
from ossia.harmony.grammar import GrammarCache
from tests.support.vocabularies import small

GRAMMARS = GrammarCache(small())


def allowed(schema: dict[str, Any], *texts: str) -> list[str]:
    matcher = GRAMMARS.matcher(schema)
    return [text for text in texts if allows(matcher, small().encode(text))]


def number(**bounds: float) -> dict[str, Any]:
    return {"type": "number", **bounds}


@pytest.mark.parametrize(
    ("schema", "good", "bad"),
    [
        (number(exclusiveMinimum=0, maximum=0.25), "0.25 0.250 0.1 0.0001 0.2500", "0 0.0 -0 0.2501 1e-1 2.5E-1 -0.1 0.26"),
        (number(minimum=0, maximum=0.25), "0 -0 -0.0 0.00 0.25", "0.251 -0.01"),
        (number(exclusiveMinimum=0, exclusiveMaximum=1), "0.5 0.999 0.0001", "0 1 1.0 0.0 -0"),
        (number(exclusiveMinimum=9, exclusiveMaximum=9.5), "9.4 9.49999 9.0001", "9 9.0 9.5 9.50"),
        (number(exclusiveMinimum=-0.5, maximum=0), "0 -0 -0.4 -0.49", "-0.5 -0.50 0.1 -0.51"),
        (number(minimum=-1.5, exclusiveMaximum=-1), "-1.5 -1.50 -1.2 -1.0001", "-1 -1.0 -1.51 -2"),
        (number(minimum=1e300), "1" + "0" * 300, "9" * 300),
        (number(maximum=1e300, minimum=0), "1" + "0" * 300, "1" + "0" * 299 + "1"),
        (number(exclusiveMinimum=0, maximum=1e-300), "0." + "0" * 299 + "1", "0." + "0" * 298 + "1 0 1"),
        (number(minimum=3, maximum=3), "3 3.0 3.00", "3.01 2.99 4"),
        ({"type": "integer", "exclusiveMinimum": 0.5, "maximum": 2.5}, "1 2", "0 3 -1 1.5"),
        ({"type": "integer", "minimum": -3, "maximum": 3, "multipleOf": 2}, "-2 0 -0 2", "-3 1 3 4"),
        (number(multipleOf=3, minimum=-6), "-6 -6.0 0 3 9.00", "-9 1 3.1"),
        (number(multipleOf=7, minimum=0, maximum=70), "0 -0 7 7.0 70", "71 77 -7 7.7"),
        (number(multipleOf=2.5, exclusiveMaximum=10), "7.5 7.50 5 -2.5 0", "10 8 7.51"),
        (number(multipleOf=0.01, minimum=0, maximum=1), "0.99 0.990 1 1.00 0", "0.999 1.01 -0.01"),
        (number(multipleOf=0.7, minimum=0, maximum=7), "0.7 2.1 7 6.30", "7.7 0.8"),
        (number(multipleOf=1), "3 3.0 -7.00 0", "3.5 1e0"),
    ],
)  # fmt: skip
def test_A2_numbers_keep_to_their_bounds(schema: dict[str, Any], good: str, bad: str):
    assert allowed(schema, *good.split()) == good.split()
    assert allowed(schema, *bad.split()) == []


@pytest.mark.parametrize(("bound", "texts"), [(9.999, "9 9.9 9.99 9.999 9.90 9.9990"), (99.05, "99 99.0 99.05 99.04 98.99"), (0.123, "0 0.1 0.12 0.123")])  # fmt: skip
def test_A2b_every_decimal_below_a_maximum_is_allowed(bound: float, texts: str):
    assert allowed(number(maximum=bound), *texts.split()) == texts.split()


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "number", "minimum": 2, "maximum": 1},
        {"type": "number", "exclusiveMinimum": 1, "maximum": 1},
        {"type": "number", "exclusiveMinimum": 1, "exclusiveMaximum": 1},
        {"type": "integer", "minimum": 0.1, "maximum": 0.9},
        {"type": "integer", "exclusiveMinimum": 1, "exclusiveMaximum": 2},
        {"type": "number", "minimum": 1, "maximum": 2, "multipleOf": 5},
    ],
)
def test_A2_bounds_that_no_number_is_within_are_refused_by_name(schema: dict[str, Any]):
    with pytest.raises(SchemaError, match=r"inimum at #/properties/n: no (number|integer) is within the bounds"):
        GRAMMARS.matcher({"type": "object", "properties": {"n": schema}})
    lenient = {"type": "object", "properties": {"n": schema}, "x-guidance": {"lenient": True}}
    assert "no " in GRAMMARS.dropped(lenient)[0]


@pytest.mark.parametrize("draft", [{}, {"$schema": "http://json-schema.org/draft-04/schema#"}])
def test_A6b_a_bound_of_draft_4_is_open_where_it_says_so(draft: dict[str, str]):
    schema = {
        **draft,
        "type": "number",
        "minimum": 0,
        "exclusiveMinimum": True,
        "maximum": 1,
        "exclusiveMaximum": False,
    }
    assert allowed(schema, "0", "0.0", "0.1", "1", "1.1") == ["0.1", "1"]
    with pytest.raises(SchemaError, match="exclusiveMinimum at #: true means something only beside minimum"):
        GRAMMARS.matcher({**draft, "exclusiveMinimum": True})


@pytest.mark.parametrize("bound", [1e300, 1e-300, 1.7976931348623157e308, 5e-324, 2**256 - 1, 123456789.123456789])
@pytest.mark.parametrize("key", ["minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"])
def test_A2_a_grammar_of_huge_and_tiny_bounds_stays_small(bound: float, key: str):
    schema = {"type": "number", key: bound}
    assert len(grammar_of(schema, " ", lambda _: False, lambda _: None).text) < 40_000
    assert GRAMMARS.matcher(schema)


@pytest.mark.parametrize(
    "count", [20_000, pytest.param(2_000_000, marks=[pytest.mark.slow, pytest.mark.timeout(1800)])]
)
def test_A2_of_all_spellings_none_is_wrongly_allowed_or_refused(count: int):
    counts, wrong = study(GRAMMARS, count, seed=count)
    assert wrong == []
    assert counts["plain and fitting"] > count / 10
