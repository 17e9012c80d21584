"""Items to harmony messages, in both directions the ids and contents kept: what a conversation is made of.

In: a request's input, or items of earlier responses with the messages they were. Out: harmony messages.
It does not know where items are kept, nor how an answer is streamed.
"""

import json
import secrets
from collections.abc import Callable, Iterable, Sequence
from itertools import takewhile
from typing import NamedTuple, TypeVar

from ossia.harmony.client_tools import Toolbox
from ossia.harmony.messages import Message, assistant, developer, tool, user
from ossia.server.errors import ApiError, bad
from ossia.server.responses.wire import (
    GivenCall,
    GivenCustomCall,
    GivenMessage,
    GivenOutput,
    GivenReasoning,
    Part,
    Phase,
    Reference,
)
from ossia.server.wire import JsonDict, convert, same_json

JSON_TYPE = "<|constrain|>json"
TEXT_PARTS = ("input_text", "output_text", "text", "summary_text", "reasoning_text", "refusal")
PREFIXES = {
    "message": "msg",
    "reasoning": "rs",
    "function_call": "fc",
    "function_call_output": "fco",
    "custom_tool_call": "ctc",
    "custom_tool_call_output": "ctco",
    "item_reference": "",
}

T = TypeVar("T")


class Entry(NamedTuple):
    """An item in its normal form and, where the model said it, the message that it was. `at`: its place in a request."""

    item: JsonDict
    said: Message | None = None
    at: str = "input"


def new_id(prefix: str) -> str:
    return f"{prefix}_{secrets.token_hex(24)}"


def read_input(given: str | Sequence[JsonDict] | None, warnings: list[str], at: str = "input") -> list[Entry]:
    """A request's items in normal form: typed, with ids, contents as parts. Raises ApiError (400) that names the field.

    Items of a type that is not known are left out with a warning.
    """
    if given is None or isinstance(given, str):
        return [Entry(_message({"role": "user", "content": given or ""}, at))]
    entries: list[Entry] = []
    for number, item in enumerate(given):
        place = f"{at}[{number}]"
        kind = item.get("type") or ("message" if "role" in item else "item_reference" if "id" in item else None)
        if not isinstance(kind, str):
            raise bad(f"{place}.type", "an item needs a type, such as 'message'")
        if kind in PREFIXES:
            entries.append(Entry(_normal(kind, item, place), at=place))
        else:
            warnings.append(f"{place}: items of type {kind!r} are not known to this server; it was left out")
    return entries


def _normal(kind: str, item: JsonDict, at: str) -> JsonDict:
    head = {"id": str(item.get("id") or new_id(PREFIXES[kind])), "type": kind}
    match kind:
        case "message":
            return _message(item, at)
        case "reasoning":
            given = convert(item, GivenReasoning, at)
            kept = {"encrypted_content": given.encrypted_content} if given.encrypted_content else {}
            content = [{"type": "reasoning_text", "text": text} for text in _texts(given.content, f"{at}.content")]
            summary = [{"type": "summary_text", "text": text} for text in _texts(given.summary, f"{at}.summary")]
            return {**head, "status": "completed", "summary": summary, "content": content, **kept}
        case "function_call":
            call = convert(item, GivenCall, at)
            own = {"name": call.name, "arguments": call.arguments}
            space = {"namespace": call.namespace} if call.namespace else {}
            return {**head, "status": "completed", "call_id": call.call_id, **own, **space}
        case "custom_tool_call":
            custom = convert(item, GivenCustomCall, at)
            space = {"namespace": custom.namespace} if custom.namespace else {}
            own = {"name": custom.name, "input": custom.input}
            return {**head, "status": "completed", "call_id": custom.call_id, **own, **space}
        case "item_reference":
            return {"id": convert(item, Reference, at).id, "type": kind}
        case _:
            output = convert(item, GivenOutput, at)
            text = "\n".join(_texts(output.output, f"{at}.output"))
            return {**head, "status": "completed", "call_id": output.call_id, "output": text}


def _message(item: JsonDict, at: str) -> JsonDict:
    given = convert(item, GivenMessage, at)
    said = given.role == "assistant"
    more = {"annotations": [], "logprobs": []} if said else {}
    kind = "output_text" if said else "input_text"
    content = [{"type": kind, "text": text, **more} for text in _texts(given.content, f"{at}.content")]
    phase = {"phase": given.phase} if said and given.phase in ("commentary", "final_answer") else {}
    return {
        "id": given.id or new_id("msg"),
        "type": "message",
        "status": "completed",
        "role": given.role,
        "content": content,
        **phase,
    }


def _texts(content: str | list[Part] | None, at: str) -> list[str]:
    """The texts of a content. The model reads nothing else."""
    if content is None or isinstance(content, str):
        return [] if content is None else [content]
    for number, part in enumerate(content):
        if part.type not in TEXT_PARTS:
            message = f"the model reads text only: a part of type {part.type[:40]!r} cannot be given to it"
            raise bad(f"{at}[{number}]", message, "unsupported_content")
    return [part.text or part.refusal or "" for part in content]


def phase_of(channel: str | None, recipient: str | None) -> Phase | None:
    """What a message on this channel is to a client, where it is well-formed."""
    phases: dict[str | None, Phase] = {"final": "final_answer", "commentary": "commentary"}
    return phases.get(channel) if recipient is None else None


def messages_of(
    entries: Iterable[Entry],
    toolbox: Toolbox,
    unseal: Callable[[str], str],
    recall: Callable[[str], Sequence[Message]] = lambda _: (),
) -> list[Message]:
    """The conversation that the items are. Raises ApiError (400) for an answer to a call that is not among them, and for
    sealed thinking that is needed and cannot be had.

    unseal opens reasoning that only we can read; it raises ValueError for what was not sealed here. recall finds the
    thinking before a call, for clients that give back the call alone. Thinking that led to an answer is left out.
    """
    said: list[Message] = []
    unread: tuple[int, ApiError] | None = None  # the last thought that cannot be had, and where it would stand
    recipients: dict[str, str] = {}
    for entry in entries:
        item, kind = entry.item, entry.item["type"]
        if kind in ("function_call", "custom_tool_call"):
            call = entry.said or _call(item, toolbox)
            remembered = () if entry.said else _same(recall(item["call_id"]), call)
            recipients[item["call_id"]] = str((remembered[-1] if remembered else call).recipient)
            said += (remembered[-1:] if _has_thought(said) else remembered) or [call]
        elif kind in ("function_call_output", "custom_tool_call_output"):
            if item["call_id"] not in recipients:
                message = f"no call with the call_id {item['call_id']!r} comes before this output"
                raise bad(f"{entry.at}.call_id", message)
            said.append(tool(recipients[item["call_id"]], item["output"]))
        elif entry.said:
            said.append(entry.said)
        elif kind == "reasoning":
            try:
                said += _thought(item, unseal)
            except ValueError as error:
                place = f"{entry.at}.encrypted_content"
                unread = len(said), bad(place, str(error), "invalid_encrypted_content")
        else:
            said += _spoken(item)
    if unread and unread[0] > _answered(said):
        raise unread[1]
    return without_old_analysis(said)


def without_old_analysis(said: Sequence[Message]) -> list[Message]:
    """The format's rule: thinking from before the last answer is not shown again; since then, between calls, it stays.

    A renderer does the same for one answer's history; here there may be many turns.
    """
    answered = _answered(said)
    return [message for i, message in enumerate(said) if i > answered or message.channel != "analysis"]


def _answered(said: Sequence[Message]) -> int:
    """Where the last answer stands; -1 where there is none."""
    return next((i for i in range(len(said) - 1, -1, -1) if said[i].channel == "final"), -1)


def _spoken(item: JsonDict) -> list[Message]:
    texts = [part["text"] for part in item["content"]]
    match item["role"]:
        case "assistant":  # one without words, as some clients send beside a call, says nothing
            channel = "commentary" if item.get("phase") == "commentary" else "final"
            return [assistant(text, channel)] if (text := "".join(texts)) else []
        case "user":
            return [user("\n".join(texts))]
        case _:
            return [developer("\n".join(texts))]


def _thought(item: JsonDict, unseal: Callable[[str], str]) -> list[Message]:
    """The sealed thought, or what came beside it where the seal cannot be opened: many clients give both back.

    A summary is no thought: it stands for one only where nothing is sealed. Raises ValueError where nothing is left.
    """
    sealed, content = item.get("encrypted_content"), "\n".join(part["text"] for part in item.get("content", ()))
    try:
        text = unseal(sealed) if sealed else content or "\n".join(part["text"] for part in item["summary"])
    except ValueError:
        if not content:
            raise
        text = content
    return [assistant(text, "analysis")] if text else []


def _call(item: JsonDict, toolbox: Toolbox) -> Message:
    custom = item["type"] == "custom_tool_call"
    text = json.dumps({"input": item["input"]}, ensure_ascii=False) if custom else item["arguments"]
    return assistant(text, "commentary", toolbox.recipient(item["name"], item.get("namespace")), JSON_TYPE)


def _same(remembered: Sequence[Message], call: Message) -> list[Message]:
    """What was remembered, if it is this very call: a client may have changed its arguments."""
    return list(remembered) if remembered and same_json(remembered[-1].text, call.text) else []


def _has_thought(said: Sequence[Message]) -> bool:
    """Whether the assistant has thought since others last spoke."""
    own = takewhile(lambda message: message.role == "assistant", reversed(said))
    return any(message.channel == "analysis" for message in own)


def shorten(messages: Sequence[Message], fits: Callable[[Sequence[Message]], bool]) -> list[Message]:
    """Drop the oldest items until the rest fits: never the first system and developer message, nor the last item.

    An answer of a tool goes with its call. Where nothing more can be dropped, the rest is given, too long as it is.
    """
    head = list(takewhile(lambda message: message.role in ("system", "developer"), messages))
    rest = list(messages[len(head) :])
    least, most = 0, max(len(rest) - 1, 0)
    while least < most:  # the fewest that must go
        middle = (least + most) // 2
        if fits(head + _after(rest, middle)):
            most = middle
        else:
            least = middle + 1
    return head + _after(rest, least)


def _after(messages: Sequence[Message], count: int) -> list[Message]:
    gone = {message.recipient for message in messages[:count] if message.role == "assistant"}
    kept = list(messages[count:])
    while kept and kept[0].role == "tool" and kept[0].name in gone and len(kept) > 1:
        kept.pop(0)
    return kept
