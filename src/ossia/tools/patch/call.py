"""A call of apply_patch as the model sees it: its description, its arguments, the texts of its result."""

import json

from ossia.tools.patch.parse import MAX_PATCH, PatchError

DONE = "Done!"
FAILED = "Error applying patch: "
NAMES = ("input", "patch", "diff")  # of the argument that holds the patch
DESCRIPTION = "Patch files: add, update, move or delete them. All operations are done, or none."
MAX_ESCAPED = 6 * MAX_PATCH  # characters of JSON, where one may be written as six
FORMAT = (
    "The patch: *** Begin Patch, then *** Add File: PATH with lines that begin with +, *** Delete File: PATH, or "
    "*** Update File: PATH with hunks (@@, then lines that begin with a space, - or +), then *** End Patch."
)


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
