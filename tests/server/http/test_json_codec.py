"""JSON that a client sends: whatever it is, there is a value or a refusal that names the field."""

import json

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ossia.server.apis.chat.chat_wire import ChatRequest
from ossia.server.errors import ApiError
from ossia.server.http.decoding.json_codec import decode, encode
from ossia.server.http.decoding.json_shape import DEEPEST

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["role", "content", "text", "type", "x"]), inner, max_size=3)
    ),
    max_leaves=8,
)


def refusal_of(body: bytes) -> ApiError | None:
    try:
        decode(body, ChatRequest)
    except ApiError as error:
        return error
    return None


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(st.dictionaries(st.sampled_from(ChatRequest.__struct_fields__), VALUES, max_size=4))
def test_any_json_is_a_request_or_a_refusal_with_a_field(body: dict[str, object]):
    if error := refusal_of(json.dumps(body).encode()):
        assert (error.status, bool(error.code)) == (400, True)
        assert error.param is None or error.param.split(".")[0].split("[")[0] in ("messages", *body)


@given(st.binary(max_size=200))
def test_any_bytes_are_a_request_or_a_refusal(body: bytes):
    error = refusal_of(body)
    assert error is not None
    assert (error.status, bool(error.code)) == (400, True)


@pytest.mark.parametrize(("levels", "fits"), [(DEEPEST - 1, True), (DEEPEST + 1, False), (10**6, False)])
def test_depth_has_a_limit(levels: int, fits: bool):
    body = b"[" * levels + b"]" * levels
    if fits:
        assert decode(body, list) is not None
    else:
        with pytest.raises(ApiError, match="nested deeper"):
            decode(body, list)


def test_brackets_in_texts_are_no_depth():
    text = '[{"' * 1000 + "\\"
    assert decode(json.dumps({"a": text, "b": [text]}).encode(), dict) == {"a": text, "b": [text]}


def test_infinities_that_slip_through_are_null_on_the_way_out():
    assert encode({"a": float("inf")}) == b'{"a":null}'
    assert msgspec.json.decode(encode({"a": 1})) == {"a": 1}
