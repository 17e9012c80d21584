"""Filters of tools and the approval of calls, in the form of the Responses API."""

import pytest

from ossia.tools.mcp.approval import ApprovalPolicy, ToolFilter, read_filter, read_policy
from ossia.tools.mcp.results import McpTool

READS = McpTool("search", annotations={"readOnlyHint": True})
WRITES = McpTool("delete", annotations={"readOnlyHint": False})
SILENT = McpTool("unknown")


@pytest.mark.parametrize(
    ("value", "needing"),
    [
        (None, [READS, WRITES, SILENT]),
        ("always", [READS, WRITES, SILENT]),
        ("never", []),
        ({"never": {"tool_names": ["search"]}}, [WRITES, SILENT]),
        ({"never": {"read_only": True}}, [WRITES, SILENT]),
        ({"never": {"tool_names": ["search", "delete"], "read_only": True}}, [WRITES, SILENT]),
        ({"always": {"tool_names": ["delete"]}}, [READS, WRITES, SILENT]),
        ({"always": {"tool_names": ["delete"]}, "never": {"tool_names": ["search", "delete"]}}, [WRITES, SILENT]),
        ({"always": {"read_only": False}, "never": {"tool_names": ["unknown", "search"]}}, [WRITES, SILENT]),
        ({"never": {}}, [READS, WRITES, SILENT]),
    ],
)
def test_require_approval(value: object, needing: list[McpTool]):
    policy = read_policy(value)
    assert [tool for tool in (READS, WRITES, SILENT) if policy.needs_approval(tool)] == needing


def test_a_tool_that_says_nothing_is_taken_to_write():
    assert not SILENT.read_only
    assert ToolFilter(read_only=False).matches(SILENT)


def test_allowed_tools():
    assert [tool.name for tool in (READS, WRITES) if read_filter(["delete"], "allowed_tools").matches(tool)] == [
        "delete"
    ]
    assert read_filter({"read_only": True}, "allowed_tools").matches(READS)
    assert not read_filter([], "allowed_tools").matches(READS)
    assert ApprovalPolicy().needs_approval(READS)


@pytest.mark.parametrize("value", ["sometimes", 3, ["a"], {"ever": {}}, {"never": "search"}, {"never": {"names": []}}])
def test_other_forms_of_require_approval_are_errors(value: object):
    with pytest.raises(ValueError, match="require_approval"):
        read_policy(value)


@pytest.mark.parametrize("value", ["all", 3, {"tool_names": "search"}, {"read_only": "yes"}, [1], ["a"] * 2_000])
def test_other_forms_of_allowed_tools_are_errors(value: object):
    with pytest.raises(ValueError, match="allowed_tools"):
        read_filter(value, "allowed_tools")
