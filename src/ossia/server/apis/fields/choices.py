"""Answers with several choices: they run side by side, and are sent as a stream or as a whole.

In: one coroutine or generator for each choice. Out: their results, or one stream of numbered pieces.
"""

import asyncio
from collections.abc import AsyncGenerator, Coroutine, Mapping
from contextlib import aclosing
from typing import Any, Protocol, TypeVar

from msgspec import Struct
from starlette.requests import Request
from starlette.responses import Response

from ossia.server.http.requests import EventStream, reply_with, until_disconnect

T = TypeVar("T")
DONE = b"data: [DONE]\n\n"
UNREAD_PIECES = 64  # of all choices of one answer


class StreamOptions(Struct):
    include_usage: bool | None = None


class Streamable(Protocol):
    """A request that may be streamed."""

    @property
    def stream(self) -> bool | None: ...
    @property
    def stream_options(self) -> StreamOptions | None: ...


class Choices(Protocol):
    """The answer to a request: as a whole, or as the frames of a stream."""

    async def whole(self) -> Struct: ...
    def frames(self, wants_usage: bool) -> AsyncGenerator[bytes, None]: ...


async def send_choices(request: Request, body: Streamable, answer: Choices, headers: Mapping[str, str]) -> Response:
    """The response in the form that the request asks for."""
    if body.stream:
        wants_usage = bool(body.stream_options and body.stream_options.include_usage)
        return EventStream(answer.frames(wants_usage), headers=headers)
    return await reply_with("choices", await until_disconnect(request, answer.whole()), headers)


async def gather_limited(works: list[Coroutine[Any, Any, T]], limit: int) -> list[T]:
    """The results of all, at most `limit` running at a time. When one fails, the others are stopped."""
    semaphore = asyncio.Semaphore(limit)

    async def limited(work: Coroutine[Any, Any, T]) -> T:
        async with semaphore:
            return await work

    tasks = [asyncio.ensure_future(limited(work)) for work in works]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for work in works:
            work.close()  # one that never began


async def merge_limited(sources: list[AsyncGenerator[T, None]], limit: int) -> AsyncGenerator[tuple[int, T], None]:
    """Merge several sources: each item as it comes, with its source's number. At most `limit` sources run at a time.

    A slow reader slows the sources down.
    """
    if len(sources) == 1:
        async with aclosing(sources[0]) as pieces:
            async for piece in pieces:
                yield 0, piece
        return
    queue: asyncio.Queue[tuple[int, T | Exception | None]] = asyncio.Queue(UNREAD_PIECES)
    semaphore = asyncio.Semaphore(limit)

    async def forward(index: int, source: AsyncGenerator[T, None]) -> None:
        try:
            async with semaphore, aclosing(source) as pieces:
                async for piece in pieces:
                    await queue.put((index, piece))
            await queue.put((index, None))
        except Exception as error:
            await queue.put((index, error))

    tasks = [asyncio.ensure_future(forward(index, source)) for index, source in enumerate(sources)]
    try:
        left = len(sources)
        while left:
            index, piece = await queue.get()
            if isinstance(piece, Exception):
                raise piece
            if piece is None:
                left -= 1
            else:
                yield index, piece
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
