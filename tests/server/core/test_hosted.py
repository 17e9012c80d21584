"""The sessions of the server's own tools: leased, kept for later requests, and closed whatever happens."""

import asyncio

import pytest

from ossia.server.core.hosted import HostedRequest, HostedSessions, MadeSessions
from tests.support.hosted import FakePython

PYTHON = HostedRequest(("python",))


def sessions(*pythons: FakePython, **options: float) -> HostedSessions:
    left = list(pythons)
    return HostedSessions(["python"], lambda _: MadeSessions([left.pop(0)]), **options)  # type: ignore[arg-type]


def test_a_lease_that_fails_midway_closes_what_was_opened():
    class Stuck(FakePython):
        async def refresh(self) -> None:
            raise RuntimeError("its tools cannot be listed")

    python = Stuck()

    async def whole():
        every = sessions(python)
        with pytest.raises(RuntimeError, match="cannot be listed"):
            await every.lease(PYTHON)
        await every.close()

    asyncio.run(whole())
    assert not python.open_now


def test_sessions_are_found_by_any_key_once():
    first, second = FakePython(), FakePython()

    async def whole():
        every = sessions(first, second)
        tools = await every.lease(PYTHON)
        await every.release(tools, ["a", "b"])
        assert await every.lease(PYTHON, ["x", "b"]) is tools
        assert (await every.lease(PYTHON, ["a"])) is not tools  # in use: a second request begins anew
        await every.close()

    asyncio.run(whole())
    assert not first.open_now
    assert not second.open_now


def test_the_longest_unused_session_is_closed_first():
    pythons = [FakePython() for _ in range(3)]

    async def whole():
        every = sessions(*pythons, max_kept=2)
        for number in range(3):
            await every.release(await every.lease(PYTHON), [str(number)])
        await asyncio.sleep(0.01)
        assert [each.open_now for each in pythons] == [False, True, True]
        await every.close()

    asyncio.run(whole())
    assert not any(each.open_now for each in pythons)
