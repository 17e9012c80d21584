"""Converts items of the Responses API to harmony messages.

In: a request's input, or items of earlier responses with their sampled messages. Out: harmony messages.
Items are stored in `state`, and streamed in `events`.
"""

import json
import secrets
from collections.abc import Callable, Iterable, Sequence
from itertools import takewhile
from typing import NamedTuple, TypeVar

from ossia.harmony.client_tools import Toolbox
from ossia.harmony.history import drop_old_analysis
from ossia.harmony.messages import Message, assistant, developer, tool, user
from ossia.harmony.openai_chat import JSON_TYPE, arguments_text, newest_from, same_json, texts_of
from ossia.harmony.tool_results import Call, Result, pair_results
from ossia.harmony.tool_results import Entry as HistoryEntry
from ossia.server.apis.chat.chat_request import unmatched_warnings
from ossia.server.apis.responses.wire import (
    ContentPart,
    GivenCall,
    GivenCustomCall,
    GivenMessage,
    GivenOutput,
    GivenReasoning,
    Phase,
    Reference,
)
from ossia.server.apis.responses.wire.mcp import GivenApproval
from ossia.server.errors import ApiError, bad, input_errors
from ossia.server.http.decoding.json_codec import JsonDict, convert
from ossia.server.state.encrypted_reasoning import DecryptionError
from ossia.tools.mcp.declaration import clean_name

PREFIXES = {
    "message": "msg",
    "reasoning": "rs",
    "function_call": "fc",
    "function_call_output": "fco",
    "custom_tool_call": "ctc",
    "custom_tool_call_output": "ctco",
    "item_reference": "",
    "mcp_approval_response": "mcpa",
}

CALLS = ("function_call", "custom_tool_call")
# Calls of tools that this server runs. A client sends them back as they are; what the tool answered is in the store.
HOSTED_CALLS = {
    "web_search_call": "ws",
    "code_interpreter_call": "ci",
    "mcp_call": "mcp",
    "mcp_list_tools": "mcpl",
    "mcp_approval_request": "mcpr",
}
# Calls that the client runs, in types of their own, and their outputs. `client_calls` reads them.
CLIENT_CALLS = {"apply_patch_call": "apc", "local_shell_call": "lsh", "shell_call": "sh"}
CLIENT_OUTPUTS = {"apply_patch_call_output": "apco", "local_shell_call_output": "lsho", "shell_call_output": "sho"}
T = TypeVar("T")


class ConversationEntry(NamedTuple):
    """An item in its normal form. message: as the model sampled it, if it did. at: its path in the request.

    result: what a tool of this server answered.
    """

    item: JsonDict
    message: Message | None = None
    at: str = "input"
    result: Message | None = None


def new_id(prefix: str) -> str:
    return f"{prefix}_{secrets.token_hex(24)}"


def read_input(
    given: str | Sequence[JsonDict] | None, warnings: list[str], at: str = "input"
) -> list[ConversationEntry]:
    """A request's items in normal form: with type and id, and contents as parts. Raises ApiError that names the field.

    Items of unknown types are ignored with a warning.
    """
    if given is None or isinstance(given, str):
        return [
            ConversationEntry(
                _message({"role": "user", "content": given or ""}, _ContentReader(at, warnings, refuses=True))
            )
        ]
    entries: list[ConversationEntry] = []
    kinds = [_kind(item) for item in given]
    newest = newest_from([_is_assistants(kind, item) for kind, item in zip(kinds, given)])
    for number, (kind, item) in enumerate(zip(kinds, given)):
        place = f"{at}[{number}]"
        if not isinstance(kind, str):
            raise bad(f"{place}.type", "an item needs a type, such as 'message'")
        if kind in HOSTED_CALLS:
            head = {"id": str(item.get("id") or new_id(HOSTED_CALLS[kind])), "type": kind}
            entries.append(ConversationEntry({**item, **head}, at=place))
        elif kind in CLIENT_CALLS or kind in CLIENT_OUTPUTS:
            prefix = (CLIENT_CALLS | CLIENT_OUTPUTS)[kind]
            entries.append(ConversationEntry({**item, "id": str(item.get("id") or new_id(prefix))}, at=place))
        elif kind in PREFIXES:
            reader = _ContentReader(place, warnings, refuses=number >= newest)
            entries.append(ConversationEntry(_normal(kind, item, reader), at=place))
        else:
            warnings.append(f"{place}: items of type {kind!r} are not known to this server; it was left out")
    return entries


def _kind(item: JsonDict) -> object:
    return item.get("type") or ("message" if "role" in item else "item_reference" if "id" in item else None)


def _is_assistants(kind: object, item: JsonDict) -> bool:
    # kind may be any JSON value, so it is compared and not looked up
    calls = (*CALLS, *HOSTED_CALLS, *CLIENT_CALLS)
    return kind in calls or (kind == "message" and item.get("role") == "assistant")


class _ContentReader(NamedTuple):
    """Reads an item's content. at: its path. refuses: raise for a part that is not text, instead of a placeholder."""

    at: str
    warnings: list[str]
    refuses: bool

    def texts(self, content: str | list[ContentPart] | None, field: str) -> list[str]:
        with input_errors():
            return texts_of(content, f"{self.at}.{field}", self.warnings, refuses=self.refuses)


def _normal(kind: str, item: JsonDict, reader: _ContentReader) -> JsonDict:
    at = reader.at
    head = {"id": str(item.get("id") or new_id(PREFIXES[kind])), "type": kind}
    match kind:
        case "message":
            return _message(item, reader)
        case "reasoning":
            given = convert(item, GivenReasoning, at)
            kept = {"encrypted_content": given.encrypted_content} if given.encrypted_content else {}
            content = [{"type": "reasoning_text", "text": text} for text in reader.texts(given.content, "content")]
            summary = [{"type": "summary_text", "text": text} for text in reader.texts(given.summary, "summary")]
            return {**head, "status": "completed", "summary": summary, "content": content, **kept}
        case "function_call":
            call = convert(item, GivenCall, at)
            own = {"name": call.name, "arguments": arguments_text(call.arguments)}
            space = {"namespace": call.namespace} if call.namespace else {}
            return {**head, "status": "completed", "call_id": call.call_id or "", **own, **space}
        case "custom_tool_call":
            custom = convert(item, GivenCustomCall, at)
            space = {"namespace": custom.namespace} if custom.namespace else {}
            own = {"name": custom.name, "input": custom.input or ""}
            return {**head, "status": "completed", "call_id": custom.call_id or "", **own, **space}
        case "mcp_approval_response":
            answer = convert(item, GivenApproval, at)
            own = {"approval_request_id": answer.approval_request_id, "approve": answer.approve}
            return {**head, **own, "reason": answer.reason}
        case "item_reference":
            return {"id": convert(item, Reference, at).id, "type": kind}
        case _:
            output = convert(item, GivenOutput, at)
            text = "\n".join(reader._replace(refuses=False).texts(output.output, "output"))
            return {**head, "status": "completed", "call_id": output.call_id or "", "output": text}


def _message(item: JsonDict, reader: _ContentReader) -> JsonDict:
    given = convert(item, GivenMessage, reader.at)
    is_answer = given.role == "assistant"
    more = {"annotations": [], "logprobs": []} if is_answer else {}
    kind = "output_text" if is_answer else "input_text"
    content = [{"type": kind, "text": text, **more} for text in reader.texts(given.content, "content")]
    phase = {"phase": given.phase} if is_answer and given.phase in ("commentary", "final_answer") else {}
    return {
        "id": given.id or new_id("msg"),
        "type": "message",
        "status": "completed",
        "role": given.role,
        "content": content,
        **phase,
    }


def phase_of(channel: str | None, recipient: str | None) -> Phase | None:
    """The phase of a message on this channel; None for a malformed message."""
    phases: dict[str | None, Phase] = {"final": "final_answer", "commentary": "commentary"}
    return phases.get(channel) if recipient is None else None


def messages_of(
    entries: Iterable[ConversationEntry],
    toolbox: Toolbox,
    decrypt: Callable[[str], str],
    recall: Callable[[str], Sequence[Message]] = lambda _: (),
    warnings: list[str] | None = None,
) -> list[Message]:
    """The items as a conversation, without reasoning that led to an answer.

    decrypt: of reasoning that this server encrypted; raises DecryptionError for any other. recall: the messages before a
    call, for clients that send back only the call. Raises ApiError (400) for a result without its call, and for encrypted
    reasoning that is needed and cannot be decrypted.
    """
    history: list[HistoryEntry] = []
    unreadable: tuple[int, ApiError] | None = None  # the last reasoning that cannot be decrypted: its index and error
    entries = list(entries)
    preambles = _preambles(entries)
    for number, entry in enumerate(entries):
        item, kind = entry.item, entry.item["type"]
        if kind in CALLS:
            call = entry.message or _call(item, toolbox)
            known = bool(entry.message) and _has_reasoning(history)  # a stored call may have hidden reasoning
            remembered = () if known or not item["call_id"] else _unchanged(recall(item["call_id"]), call)
            *before, sampled = (remembered[-1:] if _has_reasoning(history) else remembered) or [call]
            _drop_repeated(history, before)
            history += [*before, Call(sampled, item["call_id"], entry.at)]
        elif kind in ("function_call_output", "custom_tool_call_output"):
            history.append(Result(item["output"], item["call_id"], entry.at, field="call_id"))
        elif entry.message:
            history += [entry.message, *([entry.result] if entry.result else [])]
        elif kind in HOSTED_CALLS:
            history += hosted_messages(item, entry.at, warnings)
        elif kind == "reasoning":
            try:
                history += _reasoning(item, decrypt)
            except DecryptionError as error:
                place = f"{entry.at}.encrypted_content"
                unreadable = len(history), bad(place, str(error), "invalid_encrypted_content")
        else:
            history += _messages_of_item(item, number in preambles)
    if unreadable and unreadable[0] > _last_answer(history):
        raise unreadable[1]
    with input_errors():
        paired = pair_results(history)
    at = [getattr(each, "at", "") for each in history]
    if warnings is not None:
        warnings += unmatched_warnings(
            [at[number] for number in paired.unanswered], [at[number] for number in paired.repeated]
        )
    return drop_old_analysis([message for _, message in paired.messages])


def hosted_messages(item: JsonDict, at: str, warnings: list[str] | None) -> list[Message]:
    """A call of the server's own tools that is not in the store, as far as its item tells what happened."""
    if item["type"] == "mcp_call":
        return _mcp_messages(item)
    code, outputs = item.get("code"), item.get("outputs")
    if item["type"] == "code_interpreter_call" and isinstance(code, str) and isinstance(outputs, list):
        logs = [str(each.get("logs") or "") for each in outputs if isinstance(each, dict)]
        return [assistant(code, "analysis", "python", "code"), tool("python", "\n".join(logs), "analysis")]
    if warnings is not None:
        warnings.append(f"{at}: what this {item['type']} found is not stored here; it was left out")
    return []


def _mcp_messages(item: JsonDict) -> list[Message]:
    """A call of an MCP server, which its item tells whole."""
    recipient, output = f"{item.get('server_label')}.{clean_name(str(item.get('name')))}", item.get("output")
    text = output if isinstance(output, str) else f"error: {json.dumps(item.get('error'), ensure_ascii=False)}"
    return [assistant(str(item.get("arguments") or "{}"), "commentary", recipient, JSON_TYPE), tool(recipient, text)]


def _last_answer(history: Sequence[HistoryEntry]) -> int:
    """The index of the last answer; -1 if there is none."""
    finals = (i for i, each in enumerate(history) if isinstance(each, Message) and each.channel == "final")
    return max(finals, default=-1)


def _drop_repeated(history: list[HistoryEntry], before: Sequence[Message]) -> None:
    """Remove the end of the history that what is remembered before a call says again: a preamble, a call that this
    server ran, its result.
    """
    said = {(each.role, each.channel, each.recipient, each.text) for each in before}
    while history and isinstance(last := history[-1], Message):
        if (last.role, last.channel, last.recipient, last.text) not in said:
            return
        history.pop()


def _preambles(entries: Sequence[ConversationEntry]) -> set[int]:
    """Indices of preambles: messages of the assistant, without a phase, that a call of the same turn follows."""
    found: set[int] = set()
    calls = False
    for number in range(len(entries) - 1, -1, -1):
        item = entries[number].item
        if item["type"] in CALLS:
            calls = True
        elif item["type"] == "message" and item["role"] == "assistant" and not item.get("phase"):
            found.update({number} if calls else ())
        elif item["type"] != "reasoning":
            calls = False
    return found


def _messages_of_item(item: JsonDict, preamble: bool) -> list[Message]:
    texts = [part["text"] for part in item["content"]]
    match item["role"]:
        case "assistant":  # an empty one, which some clients send beside a call, is dropped
            channel = "commentary" if preamble or item.get("phase") == "commentary" else "final"
            return [assistant(text, channel)] if (text := "\n".join(texts)) else []
        case "user":
            return [user("\n".join(texts))]
        case _:
            return [developer("\n".join(texts))]


def _reasoning(item: JsonDict, decrypt: Callable[[str], str]) -> list[Message]:
    """The reasoning of an item, from its encrypted form if possible, else from its content: many clients send both.

    The summary is used only if both are missing. Raises DecryptionError if the encrypted form is all there is.
    """
    encrypted, content = item.get("encrypted_content"), "\n".join(part["text"] for part in item.get("content", ()))
    try:
        text = decrypt(encrypted) if encrypted else content or "\n".join(part["text"] for part in item["summary"])
    except DecryptionError:
        if not content:
            raise
        text = content
    return [assistant(text, "analysis")] if text else []


def _call(item: JsonDict, toolbox: Toolbox) -> Message:
    custom = item["type"] == "custom_tool_call"
    text = json.dumps({"input": item["input"]}, ensure_ascii=False) if custom else item["arguments"]
    return assistant(text, "commentary", toolbox.recipient(item["name"], item.get("namespace")), JSON_TYPE)


def _unchanged(remembered: Sequence[Message], call: Message) -> list[Message]:
    """The remembered messages, unless the client changed the call's arguments."""
    return list(remembered) if remembered and same_json(remembered[-1].text, call.text) else []


def _has_reasoning(history: Sequence[HistoryEntry]) -> bool:
    """Whether the assistant's current turn has reasoning."""
    for each in reversed(history):
        if isinstance(each, Message) and each.role == "assistant" and each.channel == "analysis":
            return True
        if not isinstance(each, Call) and not (isinstance(each, Message) and each.role == "assistant"):
            return False
    return False


def truncate(messages: Sequence[Message], fits: Callable[[Sequence[Message]], bool]) -> list[Message]:
    """Drop the oldest items until the rest fits. The leading system and developer messages and the last item stay.

    A tool's result is dropped with its call. The rest may still be too long.
    """
    head = list(takewhile(lambda message: message.role in ("system", "developer"), messages))
    rest = list(messages[len(head) :])
    least, most = 0, max(len(rest) - 1, 0)
    while least < most:  # search for the smallest number to drop
        middle = (least + most) // 2
        if fits(head + _without_oldest(rest, middle)):
            most = middle
        else:
            least = middle + 1
    return head + _without_oldest(rest, least)


def _without_oldest(messages: Sequence[Message], count: int) -> list[Message]:
    dropped_calls = {message.recipient for message in messages[:count] if message.role == "assistant"}
    kept = list(messages[count:])
    while kept and kept[0].role == "tool" and kept[0].name in dropped_calls and len(kept) > 1:
        kept.pop(0)
    return kept
