"""The settings on the page of clients: they parse, and their addresses, names and keys are the server's."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from starlette.testclient import TestClient

from ossia.server.settings import Settings
from tests.support.server import scripted
from tests.test_docs import ADDRESS, ROOT, blocks

PAGES = [ROOT / "docs/clients.md", ROOT / "docs/clients.ja.md"]
NAMES = ("gpt-oss-20b", "ossia-mini")
URL_FIELDS = (
    "baseURL",
    "baseUrl",
    "apiBase",
    "api_base",
    "base_url",
    "OPENAI_API_BASE",
    "OPENAI_API_BASE_URL",
    "ANTHROPIC_BASE_URL",
)
MODEL_FIELDS = ("model", "modelId", "ANTHROPIC_MODEL", "ANTHROPIC_DEFAULT_HAIKU_MODEL", "--model")
KEY_FIELDS = ("apiKey", "api_key", "OPENAI_API_KEY", "ANTHROPIC_AUTH_TOKEN")
each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


@pytest.fixture(scope="module")
def server() -> Iterator[TestClient]:
    with scripted(settings=Settings(names=NAMES)) as served:
        yield served.client


def settings_of(value: Any) -> Iterator[tuple[str, str]]:
    """Every field of a JSON or YAML value that is a text."""
    if isinstance(value, dict):
        for name, each in value.items():
            yield from [(str(name), each)] if isinstance(each, str) else settings_of(each)
    elif isinstance(value, list):
        for each in value:
            yield from settings_of(each)


def fields(page: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """The fields of each block that tell a client where the server is."""
    for code in blocks(page, "json"):
        yield code, dict(settings_of(json.loads(code)))
    for code in blocks(page, "yaml"):
        yield code, dict(settings_of(yaml.safe_load(code)))
    for code in blocks(page, "bash"):
        exported = dict(re.findall(r"^export (\w+)=(\S+)", code, re.MULTILINE))
        if exported:
            yield code, {**exported, **dict(re.findall(r"(--model) (\S+)", code))}
    for code in blocks(page, "python", "javascript"):
        names = re.findall(r"\b(\w+)\s*[:=]\s*\"([^\"]*)\"", code)
        yield code, {"base_url" if value.startswith("http") else name: value for name, value in names}


@each_page
def test_C9_every_client_has_its_block(page: Path):
    text = page.read_text("utf-8")
    for client in (
        "Claude Code",
        "aider",
        "opencode",
        "Cline",
        "Continue",
        "Open WebUI",
        "AI SDK",
        "litellm",
        "LangChain",
        "LlamaIndex",
    ):
        assert re.search(rf"^## {client}\n(?:(?!^## ).*\n)*?```", text, re.MULTILINE), client


@each_page
def test_C9_addresses_lead_to_the_server_and_keys_and_names_are_given(page: Path, server: TestClient):
    checked = 0
    for code, given in fields(page):
        urls = [value for name, value in given.items() if name in URL_FIELDS]
        assert urls, code
        for url in urls:
            assert url.startswith(ADDRESS), url
            base = url.removeprefix(ADDRESS)
            path = f"{base}/models" if base == "/v1" else f"{base}/v1/models"
            assert server.get(path).status_code == 200, url
        assert any(name in KEY_FIELDS for name in given), code
        checked += 1
    assert checked >= 10


@each_page
def test_C9_models_are_names_that_a_server_has(page: Path, server: TestClient):
    for code, given in fields(page):
        for name, value in given.items():
            if name in MODEL_FIELDS:
                model = value.split("/")[-1]
                assert server.get(f"/v1/models/{model}").status_code == 200, (code, value)


def test_C9_the_context_that_is_configured_is_the_models():
    """The 20b reads 131,072 tokens, ossia-mini 4,096."""
    text = PAGES[0].read_text("utf-8")
    told = {
        int(number) for number in re.findall(r"(?:context_?[wW]indow\"?|contextLength|\"context\")[:=] ?(\d+)", text)
    }
    assert told == {131072, 4096}
