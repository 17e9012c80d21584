"""The built-in tools of one conversation: several `ToolSession`s, opened together and called by recipient.

In: sessions. Out: the namespaces to declare, and the results of calls. A session's state lasts until `close`, which the
owner of the conversation calls.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from ossia.harmony.messages import ToolNamespace
from ossia.tools.functions import ToolOutput
from ossia.tools.session import Report, ToolSession, ToolUnavailableError, ignore

if TYPE_CHECKING:
    from ossia.tools.data_folder import DataFolder

log = logging.getLogger("ossia.tools")


@runtime_checkable
class CountsCalls(Protocol):
    """A session with limits for each response."""

    def begin_response(self) -> None:
        """Reset the limits."""
        ...


@runtime_checkable
class Changes(Protocol):
    """A session whose declaration may change, as that of an MCP server."""

    async def refresh(self) -> bool:
        """Read the declaration again if it changed. Returns whether it is another."""
        ...


@runtime_checkable
class HasFolder(Protocol):
    """A session whose programs work in a folder."""

    data: "DataFolder"


@runtime_checkable
class AsksApproval(Protocol):
    """A session with calls that a user must approve first."""

    def needs_approval(self, name: str) -> bool: ...

    async def run_approved(self, name: str, text: str, report: Report = ignore) -> ToolOutput:
        """`run` for a call that a user approved."""
        ...


class ToolSet:
    """The sessions of a conversation. Use it on one event loop only.

    sessions: declared in the system message, so they are called on the analysis channel. developer: declared in the
    developer message, such as the MCP servers of a request. The declarations are known after `open`. cleanup: called in
    another thread after all sessions are closed, for what they share.
    """

    def __init__(
        self,
        sessions: Sequence[ToolSession] = (),
        developer: Sequence[ToolSession] = (),
        cleanup: Callable[[], None] | None = None,
    ) -> None:
        self.sessions, self.developer = tuple(sessions), tuple(developer)
        self._cleanup = cleanup
        self._called: dict[str, tuple[ToolSession, str]] = {}
        self._opening = asyncio.Lock()
        self._is_open = False

    @property
    def system_namespaces(self) -> tuple[ToolNamespace, ...]:
        """The namespaces for the system message."""
        return tuple(session.namespace for session in self.sessions)

    @property
    def developer_namespaces(self) -> tuple[ToolNamespace, ...]:
        """The namespaces for the developer message."""
        return tuple(session.namespace for session in self.developer)

    @property
    def recipients(self) -> frozenset[str]:
        """The recipients that `run` answers: "browser.search", "python"."""
        return frozenset(self._called)

    async def open(self) -> None:
        """Open all sessions, once. Raises ToolUnavailableError if one cannot start; then all are closed."""
        async with self._opening:
            if self._is_open:
                return
            every = (*self.sessions, *self.developer)
            results = await asyncio.gather(*(session.open() for session in every), return_exceptions=True)
            if failed := [result for result in results if isinstance(result, BaseException)]:
                await self._close_all()
                raise failed[0]
            self._called = _called(every)
            self._is_open = True

    def begin_response(self) -> None:
        """Reset the sessions' limits of one response. Call it before each answer."""
        for session in (*self.sessions, *self.developer):
            if isinstance(session, CountsCalls):
                session.begin_response()

    @property
    def needs_approval(self) -> frozenset[str]:
        """The recipients whose calls a user must approve first."""
        return frozenset(
            recipient
            for recipient, (session, name) in self._called.items()
            if isinstance(session, AsksApproval) and session.needs_approval(name)
        )

    async def refresh(self) -> None:
        """Read declarations that changed. Call it before each answer."""
        every = (*self.sessions, *self.developer)
        changing = [session for session in every if isinstance(session, Changes)]
        if any(await asyncio.gather(*(session.refresh() for session in changing))):
            self._called = _called(every)

    async def run(self, recipient: str, text: str, report: Report = ignore, approved: bool = False) -> ToolOutput:
        """Run one call. Raises ToolUnavailableError if the tool itself broke, whatever its error was.

        approved: a user approved it.
        """
        await self.open()
        session, name = self._called[recipient]
        run = session.run_approved if approved and isinstance(session, AsksApproval) else session.run
        try:
            return await run(name, text, report)
        except ToolUnavailableError:
            raise
        except Exception as error:
            log.exception("the tool %s failed", recipient)
            raise ToolUnavailableError(f"the tool {recipient} failed: {type(error).__name__}: {error}") from error

    async def close(self) -> None:
        """Close all sessions. Safe to call twice. A session that cannot be closed is logged."""
        async with self._opening:
            await self._close_all()

    async def _close_all(self) -> None:
        every = (*self.sessions, *self.developer)
        self._called, self._is_open = {}, False
        for session, result in zip(
            every, await asyncio.gather(*(each.close() for each in every), return_exceptions=True), strict=True
        ):
            if isinstance(result, BaseException):
                log.error("%s could not be closed: %r", type(session).__name__, result)
        if self._cleanup:
            await asyncio.to_thread(self._cleanup)


def _called(sessions: Sequence[ToolSession]) -> dict[str, tuple[ToolSession, str]]:
    """Each recipient with its session and the tool's name there."""
    return {recipient: (session, name) for session in sessions for recipient, name in _names(session.namespace)}


def _names(space: ToolNamespace) -> list[tuple[str, str]]:
    """Each recipient of a namespace with the tool's name in it; "" for a namespace that is called itself."""
    if not space.tools:
        return [(space.name, "")]
    return [(f"{space.name}.{tool.name}", tool.name) for tool in space.tools]
