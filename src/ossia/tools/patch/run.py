"""Applies a patch to a folder: reads it, plans it, writes it. Also as a function that a model may call.

In: the text of a patch and a folder. Out: a `PatchResult`, or a `PatchError` and no change at all.
"""

import json
import threading
from pathlib import Path

from ossia.harmony.messages import ToolSpec
from ossia.tools.functions import Tool, ToolOutput
from ossia.tools.patch.parse import MAX_PATCH, PatchError, parse_patch
from ossia.tools.patch.plan import PatchResult, plan
from ossia.tools.patch.workspace import Workspace
from ossia.tools.patch.write import apply_changes

DONE = "Done!"
FAILED = "Error applying patch: "
NAMES = ("input", "patch", "diff")  # of the argument that holds the patch
DESCRIPTION = "Patch files: add, update, move or delete them. All operations are done, or none."
MAX_ESCAPED = 6 * MAX_PATCH  # characters of JSON, where one may be written as six
FORMAT = (
    "The patch: *** Begin Patch, then *** Add File: PATH with lines that begin with +, *** Delete File: PATH, or "
    "*** Update File: PATH with hunks (@@, then lines that begin with a space, - or +), then *** End Patch."
)


def apply_patch(text: str, workspace: Workspace, *, overwrite: bool = False, dry_run: bool = False) -> PatchResult:
    """Apply a patch to the files of a workspace. dry_run: only check it. Raises PatchError; then nothing is changed."""
    planned = plan(parse_patch(text), workspace.read, overwrite)
    if not dry_run:
        apply_changes(planned.changes, workspace)
    return planned.result


def run_patch(text: str, workspace: Workspace, stop: threading.Event | None = None) -> ToolOutput:
    """A call's arguments, or the patch itself, as the result for the model. stop: nothing is written once it is set."""
    try:
        planned = plan(parse_patch(patch_in(text)), workspace.read)
        if stop is not None and stop.is_set():
            return ToolOutput(f"{FAILED}the call was cancelled", failed=True)
        apply_changes(planned.changes, workspace)
    except PatchError as error:
        return ToolOutput(f"{FAILED}{error}", failed=True)
    return ToolOutput(described(planned.result), details=planned.result)


def patch_in(text: str) -> str:
    """The patch in a call's text: the raw patch, or JSON whose only string it is. Raises PatchError."""
    if len(text) > MAX_ESCAPED:
        raise PatchError(f"the arguments are longer than {MAX_ESCAPED} characters; split the patch")
    if not text.lstrip().startswith(("{", '"')):
        return text
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise PatchError(f"the arguments are not valid JSON: {error}") from error
    if isinstance(value, dict):
        found = next((value[name] for name in NAMES if name in value), None)
        value = found if found is not None or len(value) != 1 else next(iter(value.values()))
    if not isinstance(value, str):
        raise PatchError('the arguments have no patch; call with {"patch": "*** Begin Patch\\n..."}')
    return value


def described(result: PatchResult) -> str:
    """For the model: "Done!", and which files fit only inexactly."""
    inexact = [f"{each.path}: lines that differ in white space or punctuation were taken as equal"
               for each in result.operations if each.fuzz]  # fmt: skip
    return "\n".join([DONE, *inexact])


def patch_tool(root: str | Path) -> Tool:
    """apply_patch as a function of the developer message. Calls have {"input": PATCH}, or the patch without JSON."""
    workspace = Workspace(root)
    parameters = {
        "type": "object",
        "properties": {"input": {"type": "string", "description": FORMAT}},
        "required": ["input"],
        "additionalProperties": False,
    }
    return Tool(ToolSpec("apply_patch", DESCRIPTION, parameters, strict=False), lambda text: run_patch(text, workspace))
