"""The declaration of the browser tool in the system message.

The texts and the schema are those of OpenAI's harmony library (Apache-2.0, `ToolNamespaceConfig.browser`), because the
model was trained with them. A test compares them.
"""

from ossia.harmony.messages import ToolNamespace, ToolSpec

_DESCRIPTION = """Tool for browsing.
The `cursor` appears in brackets before each browsing display: `[{cursor}]`.
Cite information from the tool using the following format:
`【{cursor}†L{line_start}(-L{line_end})?】`, for example: `【6†L9-L11】` or `【8†L3】`.
Do not quote more than 10 words directly from the tool output.
sources=web (default: web)"""
_SEARCH = "Searches for information related to `query` and displays `topn` results."
_OPEN = """Opens the link `id` from the page indicated by `cursor` starting at line number `loc`, showing `num_lines` lines.
Valid link ids are displayed with the formatting: `【{id}†.*】`.
If `cursor` is not provided, the most recent page is implied.
If `id` is a string, it is treated as a fully qualified URL associated with `source`.
If `loc` is not provided, the viewport will be positioned at the beginning of the document or centered on the most relevant passage, if available.
Use this function without `id` to scroll to a new location of an opened page."""  # noqa: E501
_FIND = "Finds exact matches of `pattern` in the current page, or the page given by `cursor`."


def browser_namespace() -> ToolNamespace:
    """The namespace `browser` with its functions search, open and find."""
    number = {"type": "number", "default": -1}
    search = {"query": {"type": "string"}, "topn": {"type": "number", "default": 10}, "source": {"type": "string"}}
    opened = {
        "id": {"type": ["number", "string"], "default": -1},
        "cursor": number,
        "loc": number,
        "num_lines": number,
        "view_source": {"type": "boolean", "default": False},
        "source": {"type": "string"},
    }
    find = {"pattern": {"type": "string"}, "cursor": number}
    tools = (
        ToolSpec("search", _SEARCH, {"type": "object", "properties": search, "required": ["query"]}, strict=False),
        ToolSpec("open", _OPEN, {"type": "object", "properties": opened}, strict=False),
        ToolSpec("find", _FIND, {"type": "object", "properties": find, "required": ["pattern"]}, strict=False),
    )
    return ToolNamespace("browser", _DESCRIPTION, tools)
