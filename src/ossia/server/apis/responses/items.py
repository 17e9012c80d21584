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
from ossia.harmony.history import drop_old_analysis
from ossia.harmony.messages import Message, assistant, developer, user
from ossia.harmony.openai_chat import JSON_TYPE, arguments_text, newest_from, same_json, texts_of
from ossia.harmony.tool_results import Call, Result, pair_results
from ossia.harmony.tool_results import Entry as Told
from ossia.server.apis.chat.chat_request import unmatched
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
from ossia.server.errors import ApiError, bad, input_errors
from ossia.server.http.decoding.json_codec import JsonDict, convert
from ossia.server.state.encrypted_reasoning import DecryptionError

PREFIXES = {
    "message": "msg",
    "reasoning": "rs",
    "function_call": "fc",
    "function_call_output": "fco",
    "custom_tool_call": "ctc",
    "custom_tool_call_output": "ctco",
    "item_reference": "",
}

CALLS = ("function_call", "custom_tool_call")
T = TypeVar("T")


class ConversationEntry(NamedTuple):
    """An item in its normal form and, where the model said it, the message that it was. `at`: its place in a request."""

    item: JsonDict
    said: Message | None = None
    at: str = "input"


def new_id(prefix: str) -> str:
    return f"{prefix}_{secrets.token_hex(24)}"


def read_input(
    given: str | Sequence[JsonDict] | None, warnings: list[str], at: str = "input"
) -> list[ConversationEntry]:
    """A request's items in normal form: typed, with ids, contents as parts. Raises ApiError (400) that names the field.

    Items of a type that is not known are left out with a warning.
    """
    if given is None or isinstance(given, str):
        return [
            ConversationEntry(_message({"role": "user", "content": given or ""}, _Reads(at, warnings, refuses=True)))
        ]
    entries: list[ConversationEntry] = []
    kinds = [_kind(item) for item in given]
    newest = newest_from([_is_assistants(kind, item) for kind, item in zip(kinds, given)])
    for number, (kind, item) in enumerate(zip(kinds, given)):
        place = f"{at}[{number}]"
        if not isinstance(kind, str):
            raise bad(f"{place}.type", "an item needs a type, such as 'message'")
        if kind in PREFIXES:
            reads = _Reads(place, warnings, refuses=number >= newest)
            entries.append(ConversationEntry(_normal(kind, item, reads), at=place))
        else:
            warnings.append(f"{place}: items of type {kind!r} are not known to this server; it was left out")
    return entries


def _kind(item: JsonDict) -> object:
    return item.get("type") or ("message" if "role" in item else "item_reference" if "id" in item else None)


def _is_assistants(kind: object, item: JsonDict) -> bool:
    return kind in CALLS or (kind == "message" and item.get("role") == "assistant")


class _Reads(NamedTuple):
    """How an item's content is read. at: its place. refuses: a part that is no text is refused, not replaced."""

    at: str
    warnings: list[str]
    refuses: bool

    def texts(self, content: str | list[ContentPart] | None, field: str) -> list[str]:
        with input_errors():
            return texts_of(content, f"{self.at}.{field}", self.warnings, refuses=self.refuses)


def _normal(kind: str, item: JsonDict, reads: _Reads) -> JsonDict:
    at = reads.at
    head = {"id": str(item.get("id") or new_id(PREFIXES[kind])), "type": kind}
    match kind:
        case "message":
            return _message(item, reads)
        case "reasoning":
            given = convert(item, GivenReasoning, at)
            kept = {"encrypted_content": given.encrypted_content} if given.encrypted_content else {}
            content = [{"type": "reasoning_text", "text": text} for text in reads.texts(given.content, "content")]
            summary = [{"type": "summary_text", "text": text} for text in reads.texts(given.summary, "summary")]
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
        case "item_reference":
            return {"id": convert(item, Reference, at).id, "type": kind}
        case _:
            output = convert(item, GivenOutput, at)
            text = "\n".join(reads._replace(refuses=False).texts(output.output, "output"))
            return {**head, "status": "completed", "call_id": output.call_id or "", "output": text}


def _message(item: JsonDict, reads: _Reads) -> JsonDict:
    given = convert(item, GivenMessage, reads.at)
    said = given.role == "assistant"
    more = {"annotations": [], "logprobs": []} if said else {}
    kind = "output_text" if said else "input_text"
    content = [{"type": kind, "text": text, **more} for text in reads.texts(given.content, "content")]
    phase = {"phase": given.phase} if said and given.phase in ("commentary", "final_answer") else {}
    return {
        "id": given.id or new_id("msg"),
        "type": "message",
        "status": "completed",
        "role": given.role,
        "content": content,
        **phase,
    }


def phase_of(channel: str | None, recipient: str | None) -> Phase | None:
    """What a message on this channel is to a client, where it is well-formed."""
    phases: dict[str | None, Phase] = {"final": "final_answer", "commentary": "commentary"}
    return phases.get(channel) if recipient is None else None


def messages_of(
    entries: Iterable[ConversationEntry],
    toolbox: Toolbox,
    unseal: Callable[[str], str],
    recall: Callable[[str], Sequence[Message]] = lambda _: (),
    warnings: list[str] | None = None,
) -> list[Message]:
    """The conversation that the items are. Raises ApiError (400) for an answer to a call that is not among them, and for
    sealed thinking that is needed and cannot be had.

    unseal opens reasoning that only we can read; it raises DecryptionError for what was not encrypted here. recall finds the
    thinking before a call, for clients that give back the call alone. Thinking that led to an answer is left out.
    """
    told: list[Told] = []
    unread: tuple[int, ApiError] | None = None  # the last thought that cannot be had, and where it would stand
    entries = list(entries)
    preambles = _preambles(entries)
    for number, entry in enumerate(entries):
        item, kind = entry.item, entry.item["type"]
        if kind in CALLS:
            call = entry.said or _call(item, toolbox)
            known = bool(entry.said) and _has_thought(told)  # a stored one may have hidden its thinking
            remembered = () if known or not item["call_id"] else _same(recall(item["call_id"]), call)
            *before, made = (remembered[-1:] if _has_thought(told) else remembered) or [call]
            if told and any(_same_preamble(told[-1], each) for each in before):
                told.pop()
            told += [*before, Call(made, item["call_id"], entry.at)]
        elif kind in ("function_call_output", "custom_tool_call_output"):
            told.append(Result(item["output"], item["call_id"], entry.at, field="call_id"))
        elif entry.said:
            told.append(entry.said)
        elif kind == "reasoning":
            try:
                told += _thought(item, unseal)
            except DecryptionError as error:
                place = f"{entry.at}.encrypted_content"
                unread = len(told), bad(place, str(error), "invalid_encrypted_content")
        else:
            told += _spoken(item, number in preambles)
    if unread and unread[0] > _answered(told):
        raise unread[1]
    with input_errors():
        paired = pair_results(told)
    at = [getattr(each, "at", "") for each in told]
    if warnings is not None:
        warnings += unmatched([at[number] for number in paired.unanswered], [at[number] for number in paired.repeated])
    return drop_old_analysis([message for _, message in paired.messages])


def _answered(said: Sequence[Told]) -> int:
    """Where the last answer stands; -1 where there is none."""
    finals = (
        i for i in range(len(said) - 1, -1, -1) if isinstance(each := said[i], Message) and each.channel == "final"
    )
    return next(finals, -1)


def _same_preamble(one: Told, other: Message) -> bool:
    if not isinstance(one, Message) or other.recipient:
        return False
    return one.channel == other.channel == "commentary" and one.text == other.text


def _preambles(entries: Sequence[ConversationEntry]) -> set[int]:
    """The assistant's messages without a phase that a call follows in the same turn: words before the call, no answer."""
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


def _spoken(item: JsonDict, preamble: bool) -> list[Message]:
    texts = [part["text"] for part in item["content"]]
    match item["role"]:
        case "assistant":  # one without words, as some clients send beside a call, says nothing
            channel = "commentary" if preamble or item.get("phase") == "commentary" else "final"
            return [assistant(text, channel)] if (text := "\n".join(texts)) else []
        case "user":
            return [user("\n".join(texts))]
        case _:
            return [developer("\n".join(texts))]


def _thought(item: JsonDict, unseal: Callable[[str], str]) -> list[Message]:
    """The sealed thought, or what came beside it where the seal cannot be opened: many clients give both back.

    A summary is no thought: it stands for one only where nothing is sealed. Raises DecryptionError where nothing is left.
    """
    sealed, content = item.get("encrypted_content"), "\n".join(part["text"] for part in item.get("content", ()))
    try:
        text = unseal(sealed) if sealed else content or "\n".join(part["text"] for part in item["summary"])
    except DecryptionError:
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


def _has_thought(said: Sequence[Told]) -> bool:
    """Whether the assistant has thought since others last spoke."""
    for each in reversed(said):
        if isinstance(each, Message) and each.role == "assistant" and each.channel == "analysis":
            return True
        if not isinstance(each, Call) and not (isinstance(each, Message) and each.role == "assistant"):
            return False
    return False


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
