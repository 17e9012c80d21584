"""Opposites and exclusion: each value fits a schema or its opposite and never both; what excludes each other shares none."""

from typing import Any

import jsonschema
from hypothesis import given, settings
from hypothesis import strategies as st

from ossia.harmony.enforce.logic import disjoint, negation

WORDS = ["", "a", "b", "ab", "abc", "é.", "^"]
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.sampled_from([0.5, 1.0, *WORDS]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from("ab"), inner, max_size=2),
    max_leaves=4,
)
TYPES = st.sampled_from(["null", "boolean", "integer", "number", "string", "array", "object"])
PLAIN = st.one_of(
    st.booleans(),
    st.builds(lambda kind: {"type": kind}, TYPES | st.lists(TYPES, min_size=1, max_size=3)),
    st.builds(lambda value: {"const": value}, VALUES),
    st.builds(lambda values: {"enum": values}, st.lists(st.sampled_from([*WORDS, True, None]), min_size=1, max_size=4)),
    st.builds(
        lambda key, bound: {key: bound},
        st.sampled_from(["minLength", "maxLength", "minItems", "maxItems"]),
        st.integers(0, 2),
    ),
    st.builds(lambda key, bound: {key: bound}, st.sampled_from(["minimum", "exclusiveMaximum"]), st.integers(-2, 2)),
    st.builds(lambda names: {"required": names}, st.lists(st.sampled_from("ab"), max_size=2)),
)
SCHEMAS = st.recursive(
    PLAIN,
    lambda inner: st.one_of(
        st.builds(lambda key, ways: {key: ways}, st.sampled_from(["anyOf", "allOf"]), st.lists(inner, min_size=1, max_size=3)),
        st.builds(lambda names: {"properties": names}, st.dictionaries(st.sampled_from("ab"), inner, max_size=2)),
        st.builds(lambda names, rest: {"type": "object", "properties": names, "required": [*names], "additionalProperties": rest},
                  st.dictionaries(st.sampled_from("ab"), inner, max_size=2), st.booleans()),
        st.builds(lambda one, other: {**(one if isinstance(one, dict) else {}), **(other if isinstance(other, dict) else {})}, inner, inner),
        st.builds(lambda one: {"not": one}, inner),
    ),
    max_leaves=5,
)  # fmt: skip


def fits(value: Any, schema: Any) -> bool:
    return jsonschema.Draft202012Validator(schema).is_valid(value)


@settings(max_examples=600, deadline=None)
@given(schema=SCHEMAS, value=VALUES)
def test_a_value_fits_a_schema_or_its_opposite(schema: Any, value: Any):
    opposite = negation(schema)
    if opposite is not None:
        assert fits(value, schema) != fits(value, opposite)


@settings(max_examples=600, deadline=None)
@given(one=SCHEMAS, other=SCHEMAS, values=st.lists(VALUES, min_size=5, max_size=10))
def test_no_value_fits_two_schemas_that_exclude_each_other(one: Any, other: Any, values: list[Any]):
    if disjoint(one, other, {}):
        assert not [value for value in values if fits(value, one) and fits(value, other)]


def test_the_opposite_of_words_is_every_other_word():
    opposite = negation({"enum": ["a", "abc", "", "b."]})
    for word in ("a", "abc", "", "b."):
        assert not fits(word, opposite)
    for word in ("ab", "abcd", "b", "bx", "b..", "c", "\n", "é", "a\n"):
        assert fits(word, opposite)


def test_objects_that_tell_their_kind_exclude_each_other():
    cat = {"type": "object", "properties": {"kind": {"const": "cat"}}, "required": ["kind"]}
    dog = {"type": "object", "properties": {"kind": {"enum": ["dog", "wolf"]}}}
    assert disjoint({"$ref": "#/$defs/0"}, dog, {"0": cat})
    assert not disjoint({**cat, "required": []}, dog, {})
