"""The context of all routes: settings, service, store, and the memory of earlier calls."""

import asyncio
import logging
import sys
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from threading import Lock
from typing import Any, Protocol, TypeAlias

from ossia.harmony.messages import Message
from ossia.server.core.hosted import HostedSessions
from ossia.server.core.service import Service
from ossia.server.errors import ApiError
from ossia.server.settings import Settings

log = logging.getLogger("ossia.server")
CallHistory: TypeAlias = Mapping[str, Sequence[Message]]  # by call id: the messages up to the call
Recall: TypeAlias = Callable[[str], tuple[Message, ...]]


class Memory(Protocol):
    """The messages before each tool call, for clients that send the call back without its reasoning.

    Both methods may wait for a disk. Several threads call them at the same time, but not the event loop's.
    """

    def remember(self, call_id: str, messages: Sequence[Message]) -> None: ...
    def recall(self, call_id: str) -> tuple[Message, ...]: ...


class RecentCalls:
    """A `Memory` of the most recent calls, up to `max_bytes`. Nothing is written to disk."""

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
    """Approximate bytes in memory: the message, its text, and a pointer and a number for each token."""
    return sum(500 + sys.getsizeof(each.text) + 40 * len(each.tokens or ()) for each in messages)


async def recall_calls(recall: Recall, call_ids: Sequence[str]) -> CallHistory:
    """The remembered messages of these calls; none if the memory fails."""
    if not call_ids:
        return {}
    try:
        return await asyncio.to_thread(lambda: {call: messages for call in call_ids if (messages := recall(call))})
    except Exception:
        log.exception("earlier calls could not be looked up")
        return {}


async def remember_calls(memory: Memory, calls: CallHistory) -> None:
    """Remember these calls. A failure is only logged: this answer does not depend on it."""
    try:
        for call, messages in calls.items():
            await asyncio.to_thread(memory.remember, call, messages)
    except Exception:
        log.exception("calls could not be kept")


@dataclass(frozen=True, slots=True)
class Context:
    """store: of the Responses API; None without one.

    memory: of calls, maybe on disk. transient_memory: of calls that must not be written to disk (`store: false`).
    """

    settings: Settings
    service: Service
    memory: Memory = field(default_factory=RecentCalls)
    store: Any = None
    transient_memory: RecentCalls = field(default_factory=RecentCalls)
    hosted: HostedSessions = field(default_factory=HostedSessions)

    @property
    def names(self) -> tuple[str, ...]:
        """The names that clients may use; the first is the model's own."""
        return tuple(dict.fromkeys((*self.service.names, *self.settings.names)))

    def recall(self, call_id: str) -> tuple[Message, ...]:
        """The remembered messages of this call, from either memory. It may wait for a disk."""
        return self.transient_memory.recall(call_id) or self.memory.recall(call_id)

    def check_model(self, name: str | None) -> str:
        """The name that a client gave, or the model's own. Raises ApiError 404 for an unknown name."""
        if not name:
            return self.service.name
        if name not in self.names:
            known = ", ".join(self.names)
            raise ApiError(
                404, f"there is no model {name[:200]!r} here: there is {known}", param="model", code="model_not_found"
            )
        return name
