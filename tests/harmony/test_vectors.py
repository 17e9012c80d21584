"""OpenAI's harmony library as the oracle: stored vectors, and the library itself on what hypothesis makes up."""

import json
from pathlib import Path

import openai_harmony as oracle
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from ossia.harmony.__main__ import check_parse, check_render, lost, main
from tests.support.data_sets import shared
from tests.support.vocabularies import o200k

DATA = Path(__file__).parents[1] / "data"
ENCODING = oracle.load_harmony_encoding(oracle.HarmonyEncodingName.HARMONY_GPT_OSS)


@pytest.mark.parametrize("name", ["render_vectors", "parse_vectors"])
def test_stored_vectors(name: str, capsys: pytest.CaptureFixture[str]):
    assert main(["check", str(DATA / f"{name}.jsonl")]) == 0
    assert capsys.readouterr().out.endswith("passed, 0 failed\n")


@pytest.mark.parametrize("name", ["render_dev", "parse_dev"])
def test_all_vectors(name: str):
    assert main(["check", str(shared(f"harmony_vectors/{name}.jsonl"))]) == 0


def test_the_check_finds_what_is_lost_or_wrong():
    tokens = o200k().encode_with_special("<|channel|>final<|message|>Yes.<|return|>")
    good = [{"role": "assistant", "channel": "final", "content": "Yes."}]
    vector = {"role": "assistant", "tokens": tokens, "strict": {"messages": good}}
    assert check_parse(o200k(), vector) is None
    assert "reference" in str(check_parse(o200k(), {**vector, "strict": {"messages": [{**good[0], "content": "Yes"}]}}))
    assert "no flaw" in str(check_parse(o200k(), {**vector, "strict": {"error": "refused"}}))
    steps = [["Header", "assistant", None, None, None, None]] * 2 + [
        ["Content", "assistant", "final", None, None, None]
    ]
    late = {"steps": [*steps, ["Content", "assistant", "final", None, None, None]]}
    assert "our text 'Yes'" in str(check_parse(o200k(), {**vector, "stream": late}))
    assert lost("Hello, {world}", [{"content": "Hello, "}]) == ["world"]
    assert lost("yes {yes}", [{"content": "yes } yes"}]) == ["{"]
    assert lost("<|start|>assistant<|channel|>final<|message|>x", [{"content": "x"}]) == []


def test_a_wrong_vector_is_found_and_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    vector = json.loads((DATA / "render_vectors.jsonl").read_text("utf-8").splitlines()[0])
    vector["rendered_tokens"][3] += 1
    (tmp_path / "wrong.jsonl").write_text(json.dumps(vector))
    assert main(["check", str(tmp_path / "wrong.jsonl")]) == 1
    out = capsys.readouterr().out
    assert vector["id"] in out
    assert out.endswith("0 passed, 1 failed\n")


@pytest.mark.parametrize(("text", "reason"), [(None, "No such file"), ("{", "Expecting property name")])
def test_what_is_no_file_of_vectors_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str | None, reason: str
):
    if text is not None:
        (tmp_path / "vectors.jsonl").write_text(text)
    with pytest.raises(SystemExit, match="2"):
        main(["check", str(tmp_path / "vectors.jsonl")])
    assert reason in capsys.readouterr().err


PIECES = (
    "<|channel|>analysis", "<|channel|>final", "<|channel|>commentary", "<|message|>", "<|end|>", "<|return|>", "<|call|>", "<|start|>",
    "<|start|>assistant", "<|start|>user", "<|constrain|>json", " <|constrain|>json", " to=functions.f", " code", "Hello there.", "日本",
    '{"a": 1}', " ", "\n", "assistant", "<|channel|>", "functions.f to=assistant", "final", "🦊", "tool", "user", "assistant:bob", "to=",
    "<|constrain|>", "x<|constrain|>y", "<|endoftext|>", "<|reserved_200013|>", "\x1c", "\x1f", "\v", "\x85", "\xa0", "\u3000",
)  # fmt: skip
GOOD = ("<|channel|>analysis<|message|>Think.<|end|><|start|>assistant", "<|channel|>final<|message|>Yes.<|return|>")
TURNS = st.lists(st.sampled_from(PIECES + GOOD), min_size=1, max_size=8).map("".join)


def strict(tokens: list[int], role: str | None) -> dict[str, object]:
    try:
        parsed = ENCODING.parse_messages_from_completion_tokens(tokens, None if role is None else oracle.Role(role))
    except oracle.HarmonyError as error:
        return {"error": str(error)}
    messages = []
    for message in parsed:
        form = {**message.to_dict(), "role": message.author.role.value}
        form["content"] = (
            "".join(part["text"] for part in form["content"]) if isinstance(form["content"], list) else form["content"]
        )
        messages.append({key: value for key, value in form.items() if value is not None})
    return {"messages": messages}


@settings(max_examples=400, deadline=None)
@given(text=TURNS, role=st.sampled_from(["assistant", "assistant", None, "user", "tool"]))
def test_any_turn_is_parsed_as_the_oracle_does_or_saved_whole(text: str, role: str | None):
    # of two channels in a header, the library keeps the second as a recipient in the vectors' version, and drops it in this
    assume(all(header.count("<|channel|>") < 2 for header in text.split("<|message|>")))
    tokens = o200k().encode_with_special(text)
    assert check_parse(o200k(), {"role": role, "tokens": tokens, "strict": strict(tokens, role)}) is None


@settings(max_examples=200, deadline=None)
@given(
    tokens=st.lists(
        st.integers(0, 201_087) | st.integers(199_998, 200_018) | st.integers(201_089, 2**32 - 1), max_size=30
    )
)
def test_any_ids_are_parsed_as_the_oracle_does_or_saved_whole(tokens: list[int]):
    assert check_parse(o200k(), {"role": "assistant", "tokens": tokens, "strict": strict(tokens, "assistant")}) is None


# Exponents are left out: the library prints them in another way than the version that made the vectors.
FLOATS = st.integers(-(10**7), 10**7).map(lambda number: number / 100)
JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**40), 2**40) | FLOATS | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
KEYWORDS = st.fixed_dictionaries(
    {},
    optional={
        "type": st.sampled_from(
            ["object", "string", "number", "integer", "boolean", "array", "null", ["string", "null"], ["integer"]]
        ),
        "description": st.text(max_size=12),
        "title": st.text(max_size=8),
        "default": JSON_VALUES,
        "enum": st.lists(st.text(max_size=4) | st.integers(), max_size=3),
        "examples": st.lists(st.text(max_size=4), max_size=2),
        "nullable": st.booleans(),
        "required": st.lists(st.sampled_from(["a", "b"]), max_size=2),
    },
)
SCHEMAS = st.recursive(
    KEYWORDS,
    lambda inner: st.builds(
        lambda base, extra: {**base, **extra},
        KEYWORDS,
        st.fixed_dictionaries(
            {},
            optional={
                "properties": st.dictionaries(st.sampled_from(["a", "b", "名"]), inner, max_size=3),
                "items": inner,
                "oneOf": st.lists(inner, min_size=1, max_size=3),
            },
        ),
    ),
    max_leaves=6,
)


@settings(max_examples=300, deadline=None)
@given(schema=SCHEMAS, described=st.text(max_size=20), effort=st.sampled_from(["Low", "Medium", "High", None]))
def test_any_schema_is_rendered_as_the_oracle_does(schema: dict[str, object], described: str, effort: str | None):
    tools = {"functions": {"name": "functions", "description": None, "tools": [
        {"name": "f", "description": described, "parameters": {"type": "object", "properties": {"x": schema}}}
    ]}}  # fmt: skip
    conversation = {"messages": [
        {"role": "system", "content": [{"type": "system_content", "model_identity": "M", "reasoning_effort": effort}]},
        {"role": "developer", "content": [{"type": "developer_content", "instructions": "I", "tools": tools}]},
        {"role": "user", "content": [{"type": "text", "text": "hi"}]},
    ]}  # fmt: skip
    rendered = ENCODING._inner.render_conversation_for_completion(json.dumps(conversation), "assistant", None)
    vector = {
        "mode": "completion",
        "conversation": json.loads(json.dumps(conversation)),
        "next_role": "assistant",
        "options": {},
    }
    text = o200k().decode(rendered)
    assert check_render(o200k(), {**vector, "rendered_tokens": rendered, "rendered_text": text}) is None
