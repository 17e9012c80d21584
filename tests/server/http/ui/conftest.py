"""Fixtures: Chromium, and a page of a scripted server."""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from ossia.server.settings import Settings
from tests.server.http.ui.page import QUIET, Enter, Visit, actor_for, running_chromium
from tests.support.engine import ScriptedEngine, scripted_model
from tests.support.live import live
from tests.support.vocabularies import o200k


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    with running_chromium() as browser:
        yield browser


@pytest.fixture
def enter(chromium: Any) -> Enter:
    """A page and the actor behind it."""

    @contextmanager
    def enter(part: Callable[[str], str], seconds: float = 0.0, **more: Any) -> Iterator[tuple[Visit, ScriptedEngine]]:
        actor = actor_for(part, seconds, more.pop("context_tokens", 131072))
        settings = Settings(**QUIET, **more.pop("settings", {}))
        with live(scripted_model(o200k(), context=131072), actor, settings, hosted=more.pop("hosted", None)) as url:
            visit = Visit(chromium, url, **more)
            yield visit, actor
            visit.context.close()
            assert visit.faults == []
            assert {re.sub(r"^(blob:)?(https?://[^/]+).*", r"\2", each) for each in visit.asked} <= {url}

    return enter
