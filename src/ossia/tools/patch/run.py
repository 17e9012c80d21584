"""Applies a patch to a folder: reads it, plans it, writes it. Also as a function that a model may call.

In: the text of a patch and a folder. Out: a `PatchResult`, or a `PatchError` and no change at all.
"""

import threading
from pathlib import Path

from ossia.harmony.messages import ToolSpec
from ossia.tools.functions import Tool, ToolOutput
from ossia.tools.patch.call import DESCRIPTION, DONE, FAILED, FORMAT, patch_in
from ossia.tools.patch.parse import PatchError, parse_patch
from ossia.tools.patch.plan import PatchResult, plan
from ossia.tools.patch.workspace import Workspace
from ossia.tools.patch.write import apply_changes


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
