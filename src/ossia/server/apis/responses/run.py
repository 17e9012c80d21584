"""One response from its request to its end: answered, told, kept.

In: a `PreparedRequest`. Out: stream events, the last one only after the whole response is stored.
"""

import logging
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing

from msgspec.structs import replace

from ossia.chat import Done
from ossia.harmony.messages import Message
from ossia.server.apis.responses import wire
from ossia.server.apis.responses.events import ResponseBuilder
from ossia.server.apis.responses.requests import PreparedRequest, ResponsesContext, field_names
from ossia.server.errors import ApiError, input_errors
from ossia.server.http.decoding.json_codec import encode
from ossia.server.state.store import Item, Made, Store, StoreError

log = logging.getLogger("ossia.server")
BROKEN = "The server failed: its log says why."


class ResponseRun:
    """Generates one response. A caller that stops reading `events` early calls `break_off`."""

    def __init__(self, desk: ResponsesContext, asked: PreparedRequest) -> None:
        self._desk, self._asked = desk, asked
        self._scribe = ResponseBuilder(asked.response, asked.telling)
        self._store: Store | None = desk.store if asked.keep else None
        self._begun = False
        self.ended = False  # all events are sent, or about to be
        self.settled = False  # the end is stored, or nothing is to be

    @property
    def response(self) -> wire.Response:
        return self._scribe.response

    async def events(self) -> AsyncGenerator[list[wire.StreamEvent], None]:
        """Raises ApiError before its first event, of a response that is not queued: then nothing was begun or kept."""
        if self.response.status == "queued":
            yield await self._begin()
        try:
            async with aclosing(self._desk.context.service.answer(self._asked.ask)) as answer:
                async for event in answer:
                    if self.response.status == "queued":
                        yield await self._unqueue()
                    elif not self._begun:
                        yield await self._begin()
                    told = self._scribe.hear(event)
                    if isinstance(event, Done):
                        await self._end()
                    if told:
                        yield told
        except ApiError as error:
            if not self._begun:
                with input_errors(field_names(self._asked.form_param)):
                    raise
            yield await self._fail(_code(error.status), error.message)
        except Exception:
            if not self._begun:
                raise
            log.exception("a response failed")
            yield await self._fail("server_error", BROKEN)

    async def break_off(self, reason: str | None = None) -> list[wire.StreamEvent]:
        """It is not wanted any more or, for a reason, cannot go on. What was said so far is kept."""
        if not self._begun or self.ended:
            return []
        if reason is not None:
            return await self._fail("server_error", reason)
        told = self._scribe.cancel()
        await self._end()
        return told

    async def _begin(self) -> list[wire.StreamEvent]:
        """The response exists from now on."""
        self._begun = True
        r, given = self.response, self._asked.given
        await self._keep(lambda store: store.begin(r.id, r.status, encode(r), r.previous_response_id, given))
        return self._scribe.open()

    async def _unqueue(self) -> list[wire.StreamEvent]:
        r = replace(self.response, status="in_progress")
        await self._keep(lambda store: store.update(r.id, r.status, encode(r)))
        return self._scribe.begin()

    async def _fail(self, code: str, message: str) -> list[wire.StreamEvent]:
        told = self._scribe.fail(code, message)
        await self._end()
        return told

    async def _end(self) -> None:
        self.ended = True
        r, made, conversation = self.response, self._scribe.made, self._asked.conversation
        given = self._asked.given if conversation else ()
        come = Made(made, thoughts_before_calls(self._scribe.heard), conversation, given)
        await self._keep(lambda store: store.finish(r.id, r.status, encode(r), come))
        self.settled = True

    async def _keep(self, write: Callable[[Store], Awaitable[None]]) -> None:
        """An answer is given even where it cannot be kept: its metadata says so."""
        if self._store is None:
            return
        try:
            await write(self._store)
        except StoreError as error:
            log.error("a response is not kept: %s", error)
            self._store = None
            self._scribe.warn(f"not kept: {error}")


def thoughts_before_calls(made: list[Item]) -> dict[str, list[Message]]:
    """For each call the thinking that led to it, and the call: what a client may fail to give back."""
    thoughts: list[Message] = []
    calls: dict[str, list[Message]] = {}
    for item in made:
        if item.said is None:
            continue
        if item.said.channel == "analysis" and item.said.recipient is None:
            thoughts.append(item.said)
        elif item.call_id:
            calls[item.call_id] = [*thoughts, item.said]
    return calls


def _code(status: int) -> str:
    return "rate_limit_exceeded" if status == 429 else "server_error" if status >= 500 else "invalid_prompt"
