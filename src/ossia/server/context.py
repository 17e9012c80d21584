"""What every route is handed: the settings, the service, and what is remembered.

In and out: references only. It does not know any route.
"""

from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Any, Protocol

from ossia.harmony.messages import Message
from ossia.server.service import Service
from ossia.server.settings import Settings


class Memory(Protocol):
    """Messages that led to a tool call, for clients that send the call back without the thinking before it."""

    def remember(self, call_id: str, messages: tuple[Message, ...]) -> None: ...
    def recall(self, call_id: str) -> tuple[Message, ...]: ...


class Recent:
    """A `Memory` of the last calls, for as long as the process lives."""

    def __init__(self, most: int = 2000) -> None:
        self._most = most
        self._calls: OrderedDict[str, tuple[Message, ...]] = OrderedDict()

    def remember(self, call_id: str, messages: tuple[Message, ...]) -> None:
        self._calls[call_id] = messages
        while len(self._calls) > self._most:
            self._calls.popitem(last=False)

    def recall(self, call_id: str) -> tuple[Message, ...]:
        return self._calls.get(call_id, ())


@dataclass(frozen=True, slots=True)
class Context:
    """store: the Responses API's, opaque to the other routes; None where there is none."""

    settings: Settings
    service: Service
    memory: Memory = field(default_factory=Recent)
    store: Any = None

    @property
    def names(self) -> tuple[str, ...]:
        """What the model may be called; the first is its own."""
        own = self.service.name
        return (own, *(name for name in self.settings.names if name != own))
