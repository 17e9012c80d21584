"""The stage for the clients is set before they come: what it says needs no user to have spoken."""

import asyncio

import pytest

from ossia.server.core.service import Service
from tests.clients.part import part
from tests.support.engine import ScriptedEngine, scripted_model
from tests.support.vocabularies import o200k


def test_the_actor_can_be_warmed_up(caplog: pytest.LogCaptureFixture):
    actor = ScriptedEngine(part, o200k(), obeys=True)

    async def warmed() -> None:
        service = Service(scripted_model(o200k()), make_engine=lambda: actor)
        service.start()
        await service.warm()
        await service.close()

    asyncio.run(warmed())
    assert actor.prompts
    assert not caplog.records
