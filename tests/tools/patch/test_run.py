"""apply_patch as a function that a model calls, and the single-file operations of the Responses API."""

import json
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ossia.tools.patch.fit import apply_diff
from ossia.tools.patch.parse import PatchError, parse_patch
from ossia.tools.patch.plan import PatchResult, plan
from ossia.tools.patch.run import patch_tool
from ossia.tools.patch.split import PatchCall, patch_of_call, split_patch

PATCH = "*** Begin Patch\n*** Update File: a\n@@\n-1\n+2\n*** End Patch\n"


@pytest.mark.parametrize(
    "text",
    [
        PATCH,
        f"\n{PATCH}\n\n",
        json.dumps({"input": PATCH}),
        json.dumps({"patch": PATCH}),
        json.dumps({"diff": PATCH}),
        json.dumps({"anything": PATCH}),
        json.dumps(PATCH),
    ],
)
def test_the_patch_may_be_raw_or_in_json(text: str, tmp_path: Path):
    (tmp_path / "a").write_text("1\n")
    output = patch_tool(tmp_path).call(text)
    assert (output.text, output.failed) == ("Done!", False)
    assert isinstance(output.details, PatchResult)
    assert output.details.operations[0].path == "a"
    assert (tmp_path / "a").read_text() == "2\n"


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("", "the patch is empty"),
        ('{"input": ', "not valid JSON"),
        ("{}", "the arguments have no patch"),
        ('{"input": 5}', "the arguments have no patch"),
        ('{"a": "x", "b": "y"}', "the arguments have no patch"),
        ('{"input": ' * 5_000, "not valid JSON"),
        (PATCH, "'a' does not exist"),
    ],
)
def test_errors_are_text_for_the_model(text: str, error: str, tmp_path: Path):
    output = patch_tool(tmp_path).call(text)
    assert output.failed
    assert output.text.startswith("Error applying patch: ")
    assert error in output.text


def test_the_model_learns_that_lines_fit_only_inexactly(tmp_path: Path):
    (tmp_path / "a").write_text("1 \n")
    output = patch_tool(tmp_path).call(PATCH)
    assert output.text == "Done!\na: lines that differ in white space or punctuation were taken as equal"


def test_a_patch_is_split_into_calls_of_one_file():
    patch = parse_patch(
        "*** Begin Patch\n*** Add File: n\n+x\n+\n*** Delete File: d\n*** Update File: a\n@@ f\n@@ g\n 1\n-2\n+3\n*** End of File\n*** End Patch"
    )
    calls = split_patch(patch)
    assert calls == (
        PatchCall("create_file", "n", "+x\n+\n"),
        PatchCall("delete_file", "d"),
        PatchCall("update_file", "a", "@@ f\n@@ g\n 1\n-2\n+3\n*** End of File\n"),
    )
    files = {"d": b"1\n", "a": b"f\ng\n1\n2\n"}
    together = plan(patch, files)
    one_by_one = [change for call in calls for change in plan(patch_of_call(*call), files).changes]
    assert list(together.changes) == one_by_one


def test_a_move_cannot_be_split():
    with pytest.raises(PatchError, match="'a' cannot be moved by this tool"):
        split_patch(parse_patch("*** Begin Patch\n*** Update File: a\n*** Move to: b\n*** End Patch"))


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (("create_file", "a", "x"), "does not begin with +"),
        (("update_file", "a", ""), "the diff of 'a' has no hunks"),
        (("update_file", "a", "@@\n-x\n*** Delete File: b"), "does not belong in the diff of one file"),
        (("create_file", "a", "+x\n*** Delete File: b"), "does not begin with +"),
    ],
)
def test_calls_that_cannot_be_read_are_refused(call: tuple[str, str, str], error: str):
    with pytest.raises(PatchError, match=error.replace("+", r"\+")):
        patch_of_call(*call)  # type: ignore[arg-type]


def test_a_diff_is_applied_to_a_text():
    assert apply_diff("a\nb\n", "@@\n-b\n+c\n") == "a\nc\n"
    assert apply_diff("", "+a\n+b", "create") == "a\nb\n"
    assert apply_diff("ignored", "", "create") == ""


def test_hostile_sizes_take_little_time():
    """Repetitive files and hunks: each search is linear. The limit is generous, for slow machines."""
    text = "a\n" * 400_000
    diff = "@@\n" + " a\n" * 5_000 + "-b\n+c\n"
    with pytest.raises(PatchError, match="does not fit"):
        apply_diff(text, diff)
    many = "@@\n-a\n+b\n" * 500
    assert apply_diff("a\n" * 500 + text, many) == "b\n" * 500 + text


PIECES = st.sampled_from(
    ["*** Begin Patch", "*** End Patch", "*** Add File: a", "*** Update File: a", "*** Update File: ", "*** Delete File: a", "*** Move to: b",
     "*** End of File", "@@", "@@ x", "@@ -1 +1 @@", "+x", "-x", " x", "", " ", "x", "```", "<<EOF", "EOF", "\r", "\ufeff", "\u2028", "{", '"'],
)  # fmt: skip


@settings(max_examples=500, deadline=None)
@given(
    st.one_of(st.text(max_size=80), st.lists(PIECES, max_size=12).map("\n".join)),
    st.text(alphabet="x \n\r\ufeff", max_size=12),
)
def test_any_text_is_a_patch_or_an_error(text: str, file: str):
    """And an operation that is not an error changes only the files that it names."""
    with suppress(PatchError):
        planned = plan(parse_patch(text), {"a": file.encode()})
        assert {change.path for change in planned.changes} <= {"a", "b"}
    with suppress(PatchError):
        apply_diff(file, text)
    with suppress(PatchError):
        apply_diff(file, text, "create")
