"""One response from its request to its end: answered, streamed, stored.

In: a `PreparedRequest`. Out: stream events, the last one only after the whole response is stored.
"""

import logging
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing

from msgspec.structs import replace

from ossia.chat import Done
from ossia.server.apis.responses import wire
from ossia.server.apis.responses.output.builder import ResponseBuilder
from ossia.server.apis.responses.requests import PreparedRequest, ResponsesContext, field_names
from ossia.server.errors import ApiError, input_errors
from ossia.server.http.decoding.json_codec import encode
from ossia.server.state.store import ResponseResult, Store, StoreError

log = logging.getLogger("ossia.server")
BROKEN = "The server failed: its log says why."


class ResponseRun:
    """Generates one response. A caller that stops reading `events` early calls `break_off`."""

    def __init__(self, context: ResponsesContext, request: PreparedRequest) -> None:
        self._context, self._request = context, request
        self._builder = ResponseBuilder(request.response, request.output)
        self._store: Store | None = context.store if request.store else None
        self._begun = False
        self.ended = False  # all events are sent, or about to be
        self.settled = False  # the end is stored, or nothing is to be

    @property
    def response(self) -> wire.Response:
        return self._builder.response

    async def events(self) -> AsyncGenerator[list[wire.StreamEvent], None]:
        """Raises ApiError before its first event, of a response that is not queued: then nothing was begun or stored."""
        try:
            async with aclosing(self._events()) as every:  # closed at once: the sampling stops
                async for events in every:
                    yield events
        finally:
            await self._request.hosted.release()

    async def _events(self) -> AsyncGenerator[list[wire.StreamEvent], None]:
        if self.response.status == "queued":
            yield await self._begin()
        try:
            async with aclosing(self._context.server.service.answer(self._request.answer)) as answer:
                async for event in answer:
                    if self.response.status == "queued":
                        yield await self._unqueue()
                    elif not self._begun:
                        yield await self._begin()
                    events = self._builder.add(event)
                    if isinstance(event, Done):
                        await self._end()
                    if events:
                        yield events
        except ApiError as error:
            if not self._begun:
                with input_errors(field_names(self._request.form_param)):
                    raise
            yield await self._fail(_code(error.status), error.message)
        except Exception:
            if not self._begun:
                raise
            log.exception("a response failed")
            yield await self._fail("server_error", BROKEN)

    async def break_off(self, reason: str | None = None) -> list[wire.StreamEvent]:
        """It is not wanted any more or, for a reason, cannot go on. The output so far is stored."""
        if not self._begun or self.ended:
            await self._request.hosted.release()
            return []
        if reason is not None:
            return await self._fail("server_error", reason)
        events = self._builder.cancel()
        await self._end()
        return events

    async def _begin(self) -> list[wire.StreamEvent]:
        """The response exists from now on."""
        self._begun = True
        r, given = self.response, self._request.input_items
        await self._write(lambda store: store.begin(r.id, r.status, encode(r), r.previous_response_id, given))
        return self._builder.open()

    async def _unqueue(self) -> list[wire.StreamEvent]:
        r = replace(self.response, status="in_progress")
        await self._write(lambda store: store.update(r.id, r.status, encode(r)))
        return self._builder.begin()

    async def _fail(self, code: str, message: str) -> list[wire.StreamEvent]:
        events = self._builder.fail(code, message)
        await self._end()
        return events

    async def _end(self) -> None:
        self.ended = True
        r, conversation = self.response, self._request.conversation
        given = self._request.input_items if conversation else ()
        made = ResponseResult(self._builder.items, self._builder.calls, conversation, given)
        await self._write(lambda store: store.finish(r.id, r.status, encode(r), made))
        await self._request.hosted.release(self._session_keys())
        self.settled = True

    def _session_keys(self) -> list[str]:
        """Under which ids a later request finds the server's tools again; none if the answer broke off."""
        if self.response.status != "completed":
            return []
        ids = [self.response.id if self._request.store else None, self._request.conversation, *self._builder.calls]
        return [each for each in ids if each]

    async def _write(self, write: Callable[[Store], Awaitable[None]]) -> None:
        """An answer is given even if it cannot be stored: its metadata has a warning."""
        if self._store is None:
            return
        try:
            await write(self._store)
        except StoreError as error:
            log.error("a response is not stored: %s", error)
            self._store = None
            self._builder.warn(f"not kept: {error}")


def _code(status: int) -> str:
    return "rate_limit_exceeded" if status == 429 else "server_error" if status >= 500 else "invalid_prompt"
