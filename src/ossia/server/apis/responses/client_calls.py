"""Calls that the client runs, as items and as the model's functions: patches and local commands.

In: a complete call of the model, or items of a request. Out: its items, or entries as calls of functions. A patch of
several files is one call of the model and one item for each file; the ids of later items end with their number.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import msgspec

from ossia.server.apis.fields.client_run_tools import ClientKind
from ossia.server.apis.responses.items import CLIENT_CALLS, ConversationEntry, new_id
from ossia.server.apis.responses.wire.client import (
    CreateFile,
    DeleteFile,
    ExecAction,
    LocalShellCallItem,
    PatchCallItem,
    UpdateFile,
)
from ossia.server.apis.responses.wire.hosted import ItemStatus, ShellAction, ShellCallItem
from ossia.server.errors import bad
from ossia.server.http.decoding.json_codec import JsonDict
from ossia.tools.patch.call import DONE, FAILED, patch_in
from ossia.tools.patch.parse import BEGIN, END, FILE, PatchError, parse_patch
from ossia.tools.patch.split import PatchCall, split_patch

CALL_KINDS: dict[str, ClientKind] = {
    "apply_patch_call": "apply_patch",
    "local_shell_call": "local_shell",
    "shell_call": "shell",
}
OUTPUT_KINDS = {f"{name}_output": kind for name, kind in CALL_KINDS.items()}
NUMBERED = re.compile(r"(.+)~(\d+)")  # the id of the second and later items of one call
MARKERS = {"create_file": "Add", "update_file": "Update", "delete_file": "Delete"}
T = TypeVar("T")
CallItemType = PatchCallItem | LocalShellCallItem | ShellCallItem


# a call of the model, as items


def items_of_call(kind: ClientKind, call_id: str, text: str, status: ItemStatus) -> list[CallItemType]:
    """The items of a call. A call that cannot be read becomes an item that the client fails to run, so that the model
    learns of it.
    """
    match kind:
        case "apply_patch":
            state = "completed" if status == "completed" else "in_progress"
            calls = _patch_calls(text)
            ids = [call_id, *(f"{call_id}~{number}" for number in range(2, len(calls) + 1))]
            return [
                PatchCallItem(new_id("apc"), own, state, _operation(each)) for own, each in zip(ids, calls, strict=True)
            ]
        case "local_shell":
            return [
                LocalShellCallItem(
                    new_id(CLIENT_CALLS["local_shell_call"]), call_id, status, _read(text, ExecAction) or ExecAction([])
                )
            ]
        case "shell":
            return [
                ShellCallItem(
                    new_id(CLIENT_CALLS["shell_call"]), call_id, status, _read(text, ShellAction) or ShellAction([])
                )
            ]


def _patch_calls(text: str) -> Sequence[PatchCall]:
    try:
        return split_patch(parse_patch(patch_in(text)))
    except PatchError:
        named = FILE.search(text)
        return [PatchCall("update_file", named[2].strip()[:200] if named else "", text)]


def _operation(call: PatchCall) -> CreateFile | UpdateFile | DeleteFile:
    match call.type:
        case "create_file":
            return CreateFile(call.path, call.diff or "")
        case "delete_file":
            return DeleteFile(call.path)
    return UpdateFile(call.path, call.diff or "")


def _read(text: str, kind: type[T]) -> T | None:
    try:
        given = json.loads(text)
        if not isinstance(given, dict):
            return None
        return msgspec.convert({"type": "exec", **{key: each for key, each in given.items() if each is not None}}, kind)
    except (ValueError, RecursionError, msgspec.ValidationError):
        return None


# items of a request, as calls of functions


def as_function_calls(
    entries: Sequence[ConversationEntry], name_of: Callable[[ClientKind], str]
) -> list[ConversationEntry]:
    """The entries with calls of functions in the place of these items. Items of one patch become one call, and one
    result. name_of: the function of each kind. Raises ApiError for an item that cannot be read.
    """
    groups: dict[str, list[ConversationEntry]] = {}
    outputs: dict[str, list[ConversationEntry]] = {}
    by_item: dict[str, str] = {}  # older clients answer a local_shell_call by the id of its item
    entries = _without_outputs_of_server(entries)
    for entry in entries:
        if _is_client_call(entry):
            own = _text(entry, "call_id")
            by_item[entry.item["id"]] = own
            groups.setdefault(_base(own), []).append(entry)
        elif entry.item["type"] in OUTPUT_KINDS:
            outputs.setdefault(_base(_answered(entry, by_item)), []).append(entry)
    made: list[ConversationEntry] = []
    for entry in entries:
        if _is_client_call(entry):
            base = _base(entry.item["call_id"])
            if groups[base][0] is entry:
                made.append(_function_call(groups[base], base, name_of))
        elif entry.item["type"] in OUTPUT_KINDS:
            base = _base(_answered(entry, by_item))
            if outputs[base][-1] is entry:
                made.append(_function_output(outputs[base], base))
        else:
            made.append(entry)
    return made


def _without_outputs_of_server(entries: Sequence[ConversationEntry]) -> list[ConversationEntry]:
    """The result of a call that this server ran is stored with the call: its output item is not another."""
    run_here = {entry.item.get("call_id") for entry in entries if entry.result is not None}
    return [
        each for each in entries if each.item["type"] not in OUTPUT_KINDS or each.item.get("call_id") not in run_here
    ]


def _is_client_call(entry: ConversationEntry) -> bool:
    """A shell call with a stored result was run by this server."""
    return entry.item["type"] in CALL_KINDS and entry.result is None


def _base(call_id: str) -> str:
    numbered = NUMBERED.fullmatch(call_id)
    return numbered[1] if numbered else call_id


def _answered(entry: ConversationEntry, by_item: Mapping[str, str]) -> str:
    """The id of the call that an output answers."""
    given = entry.item.get("call_id") or entry.item["id"]
    return by_item.get(str(given), str(given))


def _function_call(
    group: Sequence[ConversationEntry], base: str, name_of: Callable[[ClientKind], str]
) -> ConversationEntry:
    first = group[0]
    kind = CALL_KINDS[first.item["type"]]
    if kind == "apply_patch":
        arguments = {"input": "".join(f"{line}\n" for line in [BEGIN, *map(_envelope, group), END])}
    else:
        action = first.item.get("action")
        if not isinstance(action, dict):
            raise bad(f"{first.at}.action", "the item has no action", "invalid_type")
        arguments = {key: value for key, value in action.items() if key != "type" and value not in (None, {})}
    text = json.dumps(arguments, ensure_ascii=False)
    item = {"id": first.item["id"], "type": "function_call", "status": "completed", "call_id": base}
    return first._replace(item={**item, "name": name_of(kind), "arguments": text})


def _envelope(entry: ConversationEntry) -> str:
    """One operation as a part of the patch that the model wrote."""
    operation: Any = entry.item.get("operation")
    marker = MARKERS.get(str(operation.get("type"))) if isinstance(operation, dict) else None
    if marker is None:
        raise bad(
            f"{entry.at}.operation", "operation must be a create_file, update_file or delete_file", "invalid_type"
        )
    diff = str(operation.get("diff") or "").rstrip("\n")
    return f"*** {marker} File: {operation.get('path')}" + (f"\n{diff}" if diff else "")


def _function_output(group: Sequence[ConversationEntry], base: str) -> ConversationEntry:
    last = group[-1]
    kind = OUTPUT_KINDS[last.item["type"]]
    text = _patch_result(group) if kind == "apply_patch" else _shell_result(last.item)
    item = {"id": last.item["id"], "type": "function_call_output", "status": "completed"}
    return last._replace(item={**item, "call_id": base, "output": text})


def _patch_result(group: Sequence[ConversationEntry]) -> str:
    """The first failure; else what the client says, or "Done!"."""
    said = [str(entry.item.get("output") or "") for entry in group]
    for entry, text in zip(group, said, strict=True):
        if entry.item.get("status") == "failed":
            return text if text.startswith(FAILED) else f"{FAILED}{text or 'the client could not apply it'}"
    return "\n".join(text for text in said if text) or DONE


def _shell_result(item: JsonDict) -> str:
    """The output of each command, with its exit code if that is not 0."""
    output = item.get("output")
    if not isinstance(output, list):
        return str(output or "")
    return "\n".join(_command_result(each) for each in output if isinstance(each, dict))


def _command_result(output: Mapping[str, Any]) -> str:
    outcome = output.get("outcome")
    ended: Mapping[str, Any] = outcome if isinstance(outcome, dict) else {}
    code = ended.get("exit_code")
    note = "[the command timed out]" if ended.get("type") == "timeout" else f"[exit code {code}]" if code else ""
    texts = (str(output.get("stdout") or "").rstrip("\n"), str(output.get("stderr") or "").rstrip("\n"), note)
    return "\n".join(text for text in texts if text)


def _text(entry: ConversationEntry, key: str) -> str:
    value = entry.item.get(key)
    if not isinstance(value, str) or not value:
        raise bad(f"{entry.at}.{key}", f"the item has no {key}", "invalid_type")
    return value
