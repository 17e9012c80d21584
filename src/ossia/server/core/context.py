"""What every route is handed: the settings, the service, and what is remembered.

In and out: references only. It does not know any route.
"""

import asyncio
import logging
import sys
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from threading import Lock
from typing import Any, Protocol, TypeAlias

from ossia.harmony.messages import Message
from ossia.server.core.service import Service
from ossia.server.errors import ApiError
from ossia.server.settings import Settings

log = logging.getLogger("ossia.server")
CallHistory: TypeAlias = Mapping[str, Sequence[Message]]  # by the call that they led to
Recall: TypeAlias = Callable[[str], tuple[Message, ...]]


class Memory(Protocol):
    """Messages that led to a tool call, for clients that send the call back without the thinking before it.

    Both may wait for a disk; they are called in other threads, several at a time.
    """

    def remember(self, call_id: str, messages: Sequence[Message]) -> None: ...
    def recall(self, call_id: str) -> tuple[Message, ...]: ...


class RecentCalls:
    """A `Memory` of the most recent calls, up to `max_bytes`, in this process only: nothing is written to disk."""

    def __init__(self, max_bytes: int = 64 << 20) -> None:
        self._most_bytes, self._bytes = max_bytes, 0
        self._calls: OrderedDict[str, tuple[Message, ...]] = OrderedDict()
        self._lock = Lock()

    def remember(self, call_id: str, messages: Sequence[Message]) -> None:
        with self._lock:
            self._bytes += _size(messages) - _size(self._calls.pop(call_id, ()))
            self._calls[call_id] = tuple(messages)
            while self._bytes > self._most_bytes:
                self._bytes -= _size(self._calls.popitem(last=False)[1])

    def recall(self, call_id: str) -> tuple[Message, ...]:
        with self._lock:
            if call_id in self._calls:
                self._calls.move_to_end(call_id)
            return self._calls.get(call_id, ())


def _size(messages: Sequence[Message]) -> int:
    """Bytes in memory, about: a message's own, its text's, and a pointer and a number for each of its tokens."""
    return sum(500 + sys.getsizeof(each.text) + 40 * len(each.tokens or ()) for each in messages)


async def recall_calls(recall: Recall, call_ids: Sequence[str]) -> CallHistory:
    """What is remembered of these calls. A memory that fails is one that remembers nothing."""
    if not call_ids:
        return {}
    try:
        return await asyncio.to_thread(lambda: {call: kept for call in call_ids if (kept := recall(call))})
    except Exception:
        log.exception("earlier calls could not be looked up")
        return {}


async def remember_calls(memory: Memory, calls: CallHistory) -> None:
    """Keep these. A memory that fails costs later answers some quality, and this one nothing."""
    try:
        for call, messages in calls.items():
            await asyncio.to_thread(memory.remember, call, messages)
    except Exception:
        log.exception("calls could not be kept")


@dataclass(frozen=True, slots=True)
class Context:
    """store: the Responses API's, opaque to the other routes; None where there is none.

    memory: of calls; it may be on disk. passing: of those that may not be written (`store: false`).
    """

    settings: Settings
    service: Service
    memory: Memory = field(default_factory=RecentCalls)
    store: Any = None
    passing: RecentCalls = field(default_factory=RecentCalls)

    @property
    def names(self) -> tuple[str, ...]:
        """What the model may be called; the first is its own."""
        return tuple(dict.fromkeys((*self.service.names, *self.settings.names)))

    def recall(self, call_id: str) -> tuple[Message, ...]:
        """What is remembered with this call, wherever that is. It may wait for a disk."""
        return self.passing.recall(call_id) or self.memory.recall(call_id)

    def check_model(self, name: str | None) -> str:
        """The name that a client gave, if it is one of ours. Raises ApiError 404 for another."""
        if not name:
            return self.service.name
        if name not in self.names:
            known = ", ".join(self.names)
            raise ApiError(
                404, f"there is no model {name[:200]!r} here: there is {known}", param="model", code="model_not_found"
            )
        return name
