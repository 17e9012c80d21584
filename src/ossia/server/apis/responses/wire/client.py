"""Items of calls that the client runs: patches and local commands.

In and out: only these types, as OpenAI's API has them.
"""

from typing import Literal, TypeAlias

from msgspec import UNSET, Struct, UnsetType

from ossia.server.apis.responses.wire.hosted import ItemStatus


class CreateFile(Struct, tag_field="type", tag="create_file"):
    path: str
    diff: str


class UpdateFile(Struct, tag_field="type", tag="update_file"):
    path: str
    diff: str


class DeleteFile(Struct, tag_field="type", tag="delete_file"):
    path: str


class PatchCallItem(Struct, tag_field="type", tag="apply_patch_call"):
    id: str
    call_id: str
    status: Literal["in_progress", "completed"]
    operation: CreateFile | UpdateFile | DeleteFile


class ExecAction(Struct, tag_field="type", tag="exec"):
    command: list[str]
    env: dict[str, str] = {}
    timeout_ms: int | UnsetType = UNSET  # clients refuse null here
    user: str | UnsetType = UNSET
    working_directory: str | UnsetType = UNSET


class LocalShellCallItem(Struct, tag_field="type", tag="local_shell_call"):
    id: str
    call_id: str
    status: ItemStatus
    action: ExecAction


ClientCallItem: TypeAlias = PatchCallItem | LocalShellCallItem
