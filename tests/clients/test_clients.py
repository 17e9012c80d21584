"""Other people's clients, unchanged, against a real server: text, streams, tools, structured output, reasoning."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.clients.environments import CLIENTS, Client, cache_folder, prepare
from tests.clients.run import Servers, servers, speakers

pytestmark = [pytest.mark.clients, pytest.mark.timeout(1200)]
CASES = [
    pytest.param(client, speaker, id=f"{client.name}-{speaker}") for client in CLIENTS for speaker in speakers(client)
]


@pytest.fixture(scope="module")
def both() -> Iterator[Servers]:
    with servers() as running:
        yield running


@pytest.fixture(scope="module")
def homes() -> dict[str, Path]:
    return {}


@pytest.mark.parametrize(("client", "speaker"), CASES)
def test_client(client: Client, speaker: str, both: Servers, homes: dict[str, Path]):
    home = homes.get(client.name) or homes.setdefault(client.name, prepare(client, cache_folder()))
    failed = [check for check in both.check(client, speaker, home) if not check.ok]
    assert not failed, "\n\n".join(f"{check.name}: {check.detail}" for check in failed)
