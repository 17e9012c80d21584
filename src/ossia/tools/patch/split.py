"""A patch as single-file operations, as in the Responses API's apply_patch_call, and back.

In: a `Patch`, or an operation's type, path and diff. Out: `PatchCall`s, or a `Patch` of one operation.
"""

from typing import Literal, NamedTuple, TypeAlias

from ossia.tools.patch.parse import (
    END_OF_FILE,
    FileOperation,
    Hunk,
    Patch,
    PatchError,
    parse_create,
    parse_update,
)
from ossia.tools.patch.paths import shortened

CallType: TypeAlias = Literal["create_file", "update_file", "delete_file"]


class PatchCall(NamedTuple):
    """One operation. diff: None for a deletion; lines with + for a new file; else hunks without the envelope."""

    type: CallType
    path: str
    diff: str | None = None


def split_patch(patch: Patch) -> tuple[PatchCall, ...]:
    """One call for each operation. Raises PatchError for a move, which these calls do not have."""
    return tuple(_call(operation) for operation in patch.operations)


def patch_of_call(type: CallType, path: str, diff: str | None = None) -> Patch:
    """The patch of one call. Raises PatchError if the diff cannot be read."""
    match type:
        case "create_file":
            return Patch((FileOperation("add", path, content=parse_create(diff or "")),))
        case "delete_file":
            return Patch((FileOperation("delete", path),))
    hunks = parse_update(diff or "")
    if not hunks:
        raise PatchError(f"the diff of {shortened(path)} has no hunks")
    return Patch((FileOperation("update", path, hunks),))


def _call(operation: FileOperation) -> PatchCall:
    if operation.move_to is not None:
        path = shortened(operation.path)
        raise PatchError(f"{path} cannot be moved by this tool; add the new file and delete the old one")
    match operation.kind:
        case "add":
            return PatchCall("create_file", operation.path, "".join(f"+{line}\n" for line in operation.content))
        case "delete":
            return PatchCall("delete_file", operation.path)
    return PatchCall("update_file", operation.path, "".join(map(_written, operation.hunks)))


def _written(hunk: Hunk) -> str:
    headers = [f"@@ {header}" for header in hunk.headers] or ["@@"]
    lines = [f"{sign}{text}" for sign, text in hunk.lines]
    return "".join(f"{line}\n" for line in [*headers, *lines, *([END_OF_FILE] if hunk.at_end else [])])
