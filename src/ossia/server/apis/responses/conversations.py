"""The routes of /v1/conversations: stored lists of items, to which responses add theirs.

In: a `ResponsesContext`. Out: routes.
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
        body = await read(request, wire.NewConversation)
        check_metadata(body.metadata or {})
        items = await asyncio.to_thread(_items, body.items or [])
        created = wire.ConversationObject(new_id("conv"), int(time.time()), body.metadata or {})
        await store_result(self.context.require_store().create_conversation(created.id, encode(created), items))
        return reply(created)

    async def get(self, request: Request) -> Response:
        return reply(await self._found(request))

    async def update(self, request: Request) -> Response:
        body = await read(request, wire.NewConversation)
        check_metadata(body.metadata or {})
        found = await self._found(request)
        found.metadata = body.metadata or {}
        await store_result(self.context.require_store().update_conversation(found.id, encode(found)))
        return reply(found)

    async def delete(self, request: Request) -> Response:
        conversation_id = request.path_params["conversation"]
        if not await store_result(
            self.context.require_store(no_conversation(conversation_id)).delete_conversation(conversation_id)
        ):
            raise no_conversation(conversation_id)
        return reply({"id": conversation_id, "object": "conversation.deleted", "deleted": True})

    async def items(self, request: Request) -> Response:
        return reply(page(await self._all_items(request), request.query_params))

    async def add(self, request: Request) -> Response:
        body = await read(request, wire.NewItems)
        found = await self._found(request)
        items = await asyncio.to_thread(_items, body.items)
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
        conversation_id = request.path_params["conversation"]
        body = await store_result(
            self.context.require_store(no_conversation(conversation_id)).conversation(conversation_id)
        )
        if body is None:
            raise no_conversation(conversation_id)
        return msgspec.json.decode(body, type=wire.ConversationObject)

    async def _all_items(self, request: Request) -> Sequence[Item]:
        found = await self._found(request)
        try:
            return await store_result(self.context.require_store().conversation_items(found.id, MAX_LISTED_BYTES))
        except TooLargeError:
            message = f"the conversation has more than {MAX_LISTED_BYTES} bytes of items, too many to list"
            raise bad(None, message, "too_large") from None


def _items(body: Sequence[JsonDict]) -> list[Item]:
    if len(body) > MAX_ITEMS:
        raise bad("items", f"{len(body)} items: want {MAX_ITEMS} at a time at most")
    warnings: list[str] = []
    entries = read_input(body, warnings, at="items")
    if warnings:
        raise bad("items", warnings[0])
    return [Item(entry.item["id"], encode(entry.item)) for entry in entries if entry.item["type"] != "item_reference"]


def _no_item(item: str) -> ApiError:
    return ApiError(404, f"there is no item {item!r} in this conversation", code="item_not_found")
