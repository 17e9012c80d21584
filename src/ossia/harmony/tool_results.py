"""Places each tool result after the call that it answers.

In: a conversation's messages, calls and results, in the given order. Out: the messages, each call followed by its
results.

A harmony tool message names the function and not the call. gpt-oss makes one call at a time and reads its result next.
So parallel calls are rendered as call a, result a, call b, result b, which keeps two results of one function apart.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

from ossia.harmony.errors import InputError
from ossia.harmony.messages import Message, tool


@dataclass(frozen=True, slots=True)
class Call:
    """A tool call. id: as given by the client; None or "" if missing. at: its place in the input, for errors."""

    message: Message
    id: str | None
    at: str


@dataclass(frozen=True, slots=True)
class Result:
    """A tool's result.

    recipient: the tool ("functions.f"), if the input names it. remembered: the recipient of a call that is not in the
    input but known otherwise. field: the name of the id's field, for errors.
    """

    text: str
    id: str | None
    at: str
    recipient: str | None = None
    remembered: str | None = None
    field: str = "tool_call_id"


Entry: TypeAlias = Message | Call | Result


class Paired(NamedTuple):
    """messages: each with the index of its entry. unanswered: entries that are calls without a result.

    repeated: entries that are further results of a call.
    """

    messages: list[tuple[int, Message]]
    unanswered: list[int]
    repeated: list[int]


class _Open:
    """Unanswered calls under a key, such as an id. The latest turn's come first; in a turn, the earliest."""

    def __init__(self) -> None:
        self._turns: dict[object, list[tuple[int, deque[int]]]] = {}

    def add(self, key: object, turn: int, call: int) -> None:
        turns = self._turns.setdefault(key, [])
        if not turns or turns[-1][0] != turn:
            turns.append((turn, deque()))
        turns[-1][1].append(call)

    def first(self, key: object, answered: set[int]) -> int | None:
        turns = self._turns.get(key, [])
        while turns:
            calls = turns[-1][1]
            while calls and calls[0] in answered:
                calls.popleft()
            if calls:
                return calls[0]
            turns.pop()
        return None


def pair_results(entries: Sequence[Entry]) -> Paired:
    """Place each result after its call. Everything else keeps its order.

    A result with an id answers an earlier call with this id: of the latest turn with an unanswered one, the earliest.
    A result without an id answers the earliest unanswered call of the latest turn, by the tool's name if given. Raises
    InputError for a result that answers no call.
    """
    by_id = _by_id(entries)
    answered = set(by_id.values())
    found, repeated = _by_order(entries, by_id, answered)
    results: dict[int, list[tuple[int, str]]] = {}
    for number, entry in enumerate(entries):
        if isinstance(entry, Result) and number in found:
            results.setdefault(found[number], []).append((number, entry.text))
    messages: list[tuple[int, Message]] = []
    for number, entry in enumerate(entries):
        match entry:
            case Message():
                messages.append((number, entry))
            case Call():
                messages.append((number, entry.message))
                name = str(entry.message.recipient)
                messages += [(each, tool(name, text)) for each, text in results.get(number, ())]
            case Result() if number not in found:  # the call is remembered, but not in the input
                messages.append((number, tool(str(entry.remembered), entry.text)))
            case _:
                pass
    unanswered = [number for number, entry in enumerate(entries) if isinstance(entry, Call) and number not in answered]
    return Paired(messages, unanswered, repeated)


def _by_id(entries: Sequence[Entry]) -> dict[int, int]:
    """The call of each result whose id belongs to an earlier unanswered call."""
    open_calls, answered, found = _Open(), set[int](), dict[int, int]()
    for number, (turn, entry) in enumerate(_in_turns(entries)):
        if isinstance(entry, Call) and entry.id:
            open_calls.add(entry.id, turn, number)
            open_calls.add((entry.id, entry.message.recipient), turn, number)
        elif isinstance(entry, Result) and entry.id:
            call = open_calls.first((entry.id, entry.recipient), answered) if entry.recipient else None
            call = call if call is not None else open_calls.first(entry.id, answered)
            if call is not None:
                found[number] = call
                answered.add(call)
    return found


def _by_order(entries: Sequence[Entry], by_id: dict[int, int], answered: set[int]) -> tuple[dict[int, int], list[int]]:
    """The call of every result, including those found by id, and which results are repeated. Adds to `answered`."""
    open_calls, found, repeated = _Open(), dict(by_id), list[int]()
    last: dict[object, int] = {}  # the latest call by id, by tool, and overall
    for number, (turn, entry) in enumerate(_in_turns(entries)):
        if isinstance(entry, Call):
            recipient = entry.message.recipient
            # a result with an unknown id can only answer a call without an id
            for key in (("any", None), ("any", recipient), *((("no id", None),) if not entry.id else ())):
                open_calls.add(key, turn, number)
            last.update({("id", entry.id or None): number, ("tool", recipient): number, ("tool", None): number})
        elif isinstance(entry, Result) and number not in by_id:
            key = ("no id", None) if entry.id else ("any", entry.recipient)
            call = None if entry.id and ("id", entry.id) in last else open_calls.first(key, answered)
            again = last.get(("id", entry.id) if entry.id else ("tool", entry.recipient))
            if call is not None:
                found[number] = call
                answered.add(call)
            elif again is not None:
                found[number] = again
                repeated.append(number)
            elif entry.remembered is None:
                raise _no_call(entry)
    return found, repeated


def _in_turns(entries: Sequence[Entry]) -> list[tuple[int, Entry]]:
    """Each entry with its turn number. Calls separated only by the assistant's messages are in one turn."""
    turn, numbered = 0, list[tuple[int, Entry]]()
    for entry in entries:
        own = isinstance(entry, Call) or (
            isinstance(entry, Message) and entry.role == "assistant" and entry.channel != "final"
        )
        turn += not own
        numbered.append((turn, entry))
    return numbered


def _no_call(entry: Result) -> InputError:
    name = entry.id[:80] if entry.id else (entry.recipient or "").removeprefix("functions.")[:80]
    what = f"answers {name!r}, which no message before it calls" if name else "answers no call: none comes before it"
    code = "invalid_value" if entry.id else "missing_required_parameter"
    return InputError(f"{entry.at}.{entry.field}", f"{entry.at} {what}", code)
