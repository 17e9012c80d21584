"""How repo_browser is declared in the system message: the namespace that gpt-oss knows from training.

Out: a `ToolNamespace` with print_tree, search, open_file, list_dir and apply_patch.
"""

from typing import Any

from ossia.harmony.messages import ToolNamespace, ToolSpec

NAME = "repo_browser"
DESCRIPTION = (
    'Look at the files of a repository and change them. Paths are relative to its root; "" is the root itself.'
)
TEXT: dict[str, Any] = {"type": "string"}
NUMBER: dict[str, Any] = {"type": "number"}
FLAG: dict[str, Any] = {"type": "boolean"}
# Other names that models use for these functions and parameters.
FUNCTION_ALIASES = {
    "list_files": "list_dir", "list_tree": "print_tree", "tree": "print_tree", "find": "search", "grep": "search",
    "read_file": "open_file", "open": "open_file", "view_file": "open_file", "patch": "apply_patch",
}  # fmt: skip
PARAMETER_ALIASES = {
    "file_path": "path", "file": "path", "filename": "path", "dir": "path", "directory": "path", "pattern": "query",
    "start_line": "line_start", "end_line": "line_end", "start": "line_start", "end": "line_end", "limit": "max_results",
    "max_depth": "depth", "input": "patch", "diff": "patch",
}  # fmt: skip


def _function(name: str, description: str, required: list[str], **properties: dict[str, Any]) -> ToolSpec:
    schema = {"type": "object", "properties": properties, "required": required, "additionalProperties": False}
    return ToolSpec(name, description, schema, strict=False)


FUNCTIONS = (
    _function("print_tree", "Print the folders and files below a path.", ["path", "depth"], path=TEXT, depth=NUMBER),
    _function(
        "search",
        "Find lines that contain a text in the file or in all files below the path.",
        ["path", "query"],
        path=TEXT,
        query=TEXT,
        max_results=NUMBER,
    ),
    _function(
        "open_file",
        "Show the lines of a file.",
        ["path"],
        path=TEXT,
        line_start=NUMBER,
        line_end=NUMBER,
        line_numbers=FLAG,
    ),
    _function("list_dir", "List the entries of a folder.", ["path"], path=TEXT, depth=NUMBER),
    _function(
        "apply_patch",
        "Change files by a patch: *** Begin Patch ... *** End Patch. All changes are made, or none.",
        ["patch"],
        patch=TEXT,
    ),
)


def repo_browser_namespace(writable: bool = True) -> ToolNamespace:
    """The declaration. writable: False leaves out apply_patch."""
    return ToolNamespace(NAME, DESCRIPTION, tuple(each for each in FUNCTIONS if writable or each.name != "apply_patch"))
