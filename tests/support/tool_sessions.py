"""A built-in tool opened for a test, and closed after it."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from ossia.tools.session import ToolSession

Session = TypeVar("Session", bound=ToolSession)


def run_with(session: Session, work: Callable[[Session], Awaitable[None]]) -> None:
    """Run the work with the open session. It is closed twice: that must be safe."""

    async def whole():
        await session.open()
        try:
            await work(session)
        finally:
            await session.close()
            await session.close()

    asyncio.run(whole())
