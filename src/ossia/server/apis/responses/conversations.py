"""The routes of /v1/conversations: items that outlive a response, in a row.

In: a `ResponsesContext`. Out: routes. They do not know how an answer is made.
"""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from ossia.server.apis.responses import wire
from ossia.server.apis.responses.items import new_id, read_input
from ossia.server.apis.responses.paging import Page, page
from ossia.server.apis.responses.requests import ResponsesContext, check_metadata, no_conversation, store_result
from ossia.server.errors import ApiError, bad
from ossia.server.http.decoding.json_codec import JsonDict, encode
from ossia.server.http.requests import read, reply
from ossia.server.state.sql import TooLargeError
from ossia.server.state.store import Item

MAX_ITEMS = 20  # at a time
MAX_LISTED_BYTES = 64 << 20


@dataclass(frozen=True, slots=True)
class Conversations:
    context: ResponsesContext

    def routes(self) -> list[BaseRoute]:
        one = "/v1/conversations/{conversation}"
        return [
            Route("/v1/conversations", self.create, methods=["POST"]),
            Route(one, self.get, methods=["GET"]),
            Route(one, self.update, methods=["POST"]),
            Route(one, self.delete, methods=["DELETE"]),
            Route(f"{one}/items", self.items, methods=["GET"]),
            Route(f"{one}/items", self.add, methods=["POST"]),
            Route(f"{one}/items/{{item}}", self.item, methods=["GET"]),
            Route(f"{one}/items/{{item}}", self.delete_item, methods=["DELETE"]),
        ]

    async def create(self, request: Request) -> Response:
        given = await read(request, wire.NewConversation)
        check_metadata(given.metadata or {})
        items = await asyncio.to_thread(_items, given.items or [])
        made = wire.ConversationObject(new_id("conv"), int(time.time()), given.metadata or {})
        await store_result(self.context.require_store().create_conversation(made.id, encode(made), items))
        return reply(made)

    async def get(self, request: Request) -> Response:
        return reply(await self._found(request))

    async def update(self, request: Request) -> Response:
        given = await read(request, wire.NewConversation)
        check_metadata(given.metadata or {})
        found = await self._found(request)
        found.metadata = given.metadata or {}
        await store_result(self.context.require_store().update_conversation(found.id, encode(found)))
        return reply(found)

    async def delete(self, request: Request) -> Response:
        own = request.path_params["conversation"]
        if not await store_result(self.context.require_store(no_conversation(own)).delete_conversation(own)):
            raise no_conversation(own)
        return reply({"id": own, "object": "conversation.deleted", "deleted": True})

    async def items(self, request: Request) -> Response:
        return reply(page(await self._all_items(request), request.query_params))

    async def add(self, request: Request) -> Response:
        given = await read(request, wire.NewItems)
        found = await self._found(request)
        items = await asyncio.to_thread(_items, given.items)
        await store_result(self.context.require_store().add_items(found.id, items))
        shown = [msgspec.Raw(item.body) for item in items]
        return reply(Page(shown, items[0].id if items else "", items[-1].id if items else "", has_more=False))

    async def item(self, request: Request) -> Response:
        wanted = request.path_params["item"]
        for item in await self._all_items(request):
            if item.id == wanted:
                return reply(msgspec.Raw(item.body))
        raise _no_item(wanted)

    async def delete_item(self, request: Request) -> Response:
        found, wanted = await self._found(request), request.path_params["item"]
        if not await store_result(self.context.require_store().delete_item(found.id, wanted)):
            raise _no_item(wanted)
        return reply(found)

    async def _found(self, request: Request) -> wire.ConversationObject:
        own = request.path_params["conversation"]
        body = await store_result(self.context.require_store(no_conversation(own)).conversation(own))
        if body is None:
            raise no_conversation(own)
        return msgspec.json.decode(body, type=wire.ConversationObject)

    async def _all_items(self, request: Request) -> Sequence[Item]:
        found = await self._found(request)
        try:
            return await store_result(self.context.require_store().conversation_items(found.id, MAX_LISTED_BYTES))
        except TooLargeError:
            message = f"the conversation has more than {MAX_LISTED_BYTES} bytes of items, too many to list"
            raise bad(None, message, "too_large") from None


def _items(given: Sequence[JsonDict]) -> list[Item]:
    if len(given) > MAX_ITEMS:
        raise bad("items", f"{len(given)} items: want {MAX_ITEMS} at a time at most")
    warnings: list[str] = []
    entries = read_input(given, warnings, at="items")
    if warnings:
        raise bad("items", warnings[0])
    return [Item(entry.item["id"], encode(entry.item)) for entry in entries if entry.item["type"] != "item_reference"]


def _no_item(item: str) -> ApiError:
    return ApiError(404, f"there is no item {item!r} in this conversation", code="item_not_found")
