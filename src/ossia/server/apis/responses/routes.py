"""The routes of /v1/responses: create, get, cancel, delete, count.

In: the context. Out: routes, and the background responses that live as long as they do.
"""

import asyncio
import logging
import secrets
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, field

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from ossia.server.apis.responses import wire
from ossia.server.apis.responses.background import Jobs, frame
from ossia.server.apis.responses.conversations import Conversations
from ossia.server.apis.responses.paging import page
from ossia.server.apis.responses.requests import PreparedRequest, ResponsesContext, prepare, store_result
from ossia.server.apis.responses.run import ResponseRun
from ossia.server.core.context import Context
from ossia.server.core.warnings import header
from ossia.server.errors import ApiError, bad
from ossia.server.http.requests import EventStream, client_of, read, reply, until_disconnect
from ossia.server.state.disk import trouble_of
from ossia.server.state.encrypted_reasoning import KEY_BYTES, ReasoningCipher, key_in

log = logging.getLogger("ossia.server")


@dataclass(frozen=True, slots=True)
class Responses:
    """The API of one server. `close` fails running background responses when the server stops."""

    context: ResponsesContext
    jobs: Jobs = field(default_factory=Jobs)

    def routes(self) -> list[BaseRoute]:
        one = "/v1/responses/{response}"
        return [
            Route("/v1/responses", self.create, methods=["POST"]),
            Route("/v1/responses/input_tokens", self.input_tokens, methods=["POST"]),
            Route("/v1/responses/compact", self.compact, methods=["POST"]),
            Route(one, self.get, methods=["GET"]),
            Route(one, self.delete, methods=["DELETE"]),
            Route(f"{one}/cancel", self.cancel, methods=["POST"]),
            Route(f"{one}/input_items", self.input_items, methods=["GET"]),
            *Conversations(self.context).routes(),
        ]

    async def close(self) -> None:
        await self.jobs.close()

    async def create(self, request: Request) -> Response:
        body = await read(request, wire.ResponsesRequest)
        prepared = await until_disconnect(request, prepare(self.context, body, client_of(request)))
        headers = header(prepared.warnings)
        if body.background:
            async with prepared.hosted.released_on_error():
                self.context.server.service.refuse_when_full(client_of(request))
            job = self.jobs.start(ResponseRun(self.context, prepared))
            await job.begun()
            return EventStream(job.follow(), headers=headers) if body.stream else reply(job.response, headers=headers)
        if body.stream:
            return EventStream(self._frames(prepared), headers=headers)
        response = await until_disconnect(request, self._complete(prepared))
        if response.error:
            raise ApiError(500, response.error.message, code=response.error.code)
        return reply(response, headers=headers)

    async def input_tokens(self, request: Request) -> Response:
        body = await read(request, wire.ResponsesRequest)
        prepared = await until_disconnect(request, prepare(self.context, body, client_of(request), only_counts=True))
        try:
            count = asyncio.to_thread(self.context.server.service.count, prepared.answer.messages)
            tokens = await until_disconnect(request, count)
        finally:
            await prepared.hosted.release()
        return reply({"object": "response.input_tokens", "input_tokens": tokens})

    async def compact(self, request: Request) -> Response:
        remedy = "send truncation='auto', or summarize the conversation in a request of your own"
        raise ApiError(501, f"this server does not compact conversations: {remedy}", code="not_implemented")

    async def get(self, request: Request) -> Response:
        response_id, query = request.path_params["response"], request.query_params
        job = self.jobs.find(response_id)
        if query.get("stream") in ("true", "1"):
            after = query.get("starting_after", "-1")
            if after != "-1" and not after.isdecimal():
                raise bad("starting_after", "starting_after must be a sequence number")
            if job is None:
                await self._body(response_id)
                raise bad(
                    "stream",
                    "the events of this response are no longer in memory: get it without stream",
                    "stream_unavailable",
                )
            return EventStream(job.follow(int(after)))
        if job is None:
            return reply(msgspec.Raw(await self._body(response_id)))
        await job.settle()
        return reply(job.response)

    async def delete(self, request: Request) -> Response:
        response_id = request.path_params["response"]
        was_running = await self.jobs.remove(response_id)
        was_stored = self.context.store is not None and await store_result(
            self.context.require_store().delete(response_id)
        )
        if not (was_running or was_stored):
            raise _missing(response_id)
        return reply({"id": response_id, "object": "response", "deleted": True})

    async def cancel(self, request: Request) -> Response:
        response_id = request.path_params["response"]
        if job := self.jobs.find(response_id):
            if not job.ended:
                await job.stop()
            return reply(job.response)
        body = await self._body(response_id)
        if not msgspec.json.decode(body, type=wire.Response).background:
            raise bad(None, "only a response made with background=true can be cancelled", "not_cancellable")
        return reply(msgspec.Raw(body))

    async def input_items(self, request: Request) -> Response:
        response_id = request.path_params["response"]
        items = await store_result(self.context.require_store(_missing(response_id)).input_items(response_id))
        if items is None:
            raise _missing(response_id)
        return reply(page(items, request.query_params))

    async def _complete(self, prepared: PreparedRequest) -> wire.Response:
        """The whole response. It is cancelled when the client disconnects."""
        run = ResponseRun(self.context, prepared)
        try:
            async with aclosing(run.events()) as events:
                async for _ in events:
                    pass
        finally:
            await run.break_off()
        return run.response

    async def _frames(self, prepared: PreparedRequest) -> AsyncGenerator[bytes, None]:
        run = ResponseRun(self.context, prepared)
        try:
            async with aclosing(run.events()) as events:
                async for batch in events:
                    for event in batch:
                        yield frame(event)
        finally:
            await run.break_off()

    async def _body(self, response: str) -> bytes:
        body = await store_result(self.context.require_store().response(response)) if self.context.store else None
        if body is None:
            raise _missing(response)
        return body


def responses(context: Context) -> Responses:
    """The API with the server's encryption key, stored in its state folder. Without a folder, the key ends with the process."""
    return Responses(ResponsesContext(context, ReasoningCipher(_key(context))))


def _key(context: Context) -> bytes:
    if folder := context.settings.state:
        try:
            return key_in(folder)
        except OSError as error:
            reason = trouble_of(error, folder / "sealing.key").message
            log.warning(
                "encrypted reasoning can be decrypted only until the server stops: its key cannot be stored (%s)",
                reason,
            )
    return secrets.token_bytes(KEY_BYTES)


def _missing(response: str) -> ApiError:
    return ApiError(
        404,
        f"there is no response {response!r}: it was not kept, was deleted, or has expired",
        code="response_not_found",
    )
