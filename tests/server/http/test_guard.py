"""Who may come in, and what every answer that is a refusal looks like."""

import asyncio
import logging

import pytest
from starlette.types import Receive, Scope, Send
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from ossia.server.core.context import Context
from ossia.server.run import config_of
from ossia.server.settings import Settings, is_loopback
from tests.support.server import refusal, scripted
from tests.support.turns import final, think

KEYS = Settings(api_keys=("first-secret", "other-secret"))


def test_any_of_the_keys_lets_in_and_nothing_else_does():
    with scripted(settings=KEYS) as served:
        get = served.client.get
        assert get("/v1/models", headers={"authorization": "Bearer first-secret"}).status_code == 200
        assert get("/v1/models", headers={"authorization": "bearer other-secret"}).status_code == 200
        assert get("/v1/models", headers={"x-api-key": "other-secret"}).status_code == 200
        for headers in (
            {},
            {"authorization": "Bearer "},
            {"authorization": "Bearer first"},
            {"authorization": "Basic first-secret"},
        ):
            answer = get("/v1/models", headers=headers)
            assert refusal(answer) == (401, None, "invalid_api_key")
            assert answer.headers["www-authenticate"] == "Bearer"


def test_page_and_health_need_no_key():
    with scripted(settings=KEYS) as served:
        assert served.client.get("/").headers["content-type"].startswith("text/html")
        assert served.client.get("/health").json() == {"status": "ok", "model": "script", "state": "off"}
        assert served.client.get("/metrics").status_code == 401


def test_without_keys_an_empty_bearer_is_fine():
    with scripted() as served:
        assert served.client.get("/v1/models", headers={"authorization": "Bearer "}).status_code == 200


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8000", "127.0.0.1.evil.example", ""])
def test_a_strangers_name_for_this_machine_is_refused(host: str):
    with scripted() as served:
        assert refusal(served.client.get("/v1/models", headers={"host": host}))[0::2] == (403, "unknown_host")


@pytest.mark.parametrize("host", ["localhost:8000", "127.0.0.1", "[::1]:8000", "box.example"])
def test_this_machines_own_names_are_served(host: str):
    with scripted(settings=Settings(allow_hosts=("box.example",))) as served:
        assert served.client.get("/v1/models", headers={"host": host}).status_code == 200


def test_pages_from_elsewhere_may_not_ask_unless_allowed():
    with scripted() as served:
        assert served.client.get("/v1/models", headers={"origin": "http://localhost"}).status_code == 200
        for origin in ("https://evil.example", "null"):
            answer = served.client.get("/v1/models", headers={"origin": origin})
            assert refusal(answer)[0::2] == (403, "unknown_origin")
            assert "access-control-allow-origin" not in answer.headers
    with scripted(settings=Settings(allow_origins=("https://app.example",))) as served:
        answer = served.client.get("/v1/models", headers={"origin": "https://app.example"})
        assert answer.headers["access-control-allow-origin"] == "https://app.example"
        asked = {"origin": "https://app.example", "access-control-request-method": "POST"}
        assert served.client.options("/v1/chat/completions", headers=asked).status_code == 200
        assert served.client.get("/v1/models", headers={"origin": "https://evil.example"}).status_code == 403


def test_large_bodies_are_refused_whether_they_say_so_or_not():
    with scripted(settings=Settings(max_body_bytes=2000)) as served:
        large = b"{" + b" " * 3000 + b"}"
        assert refusal(served.client.post("/v1/chat/completions", content=large))[::2] == (413, "too_large")
        pieces = (b" " * 500 for _ in range(10))
        assert refusal(served.client.post("/v1/chat/completions", content=pieces))[::2] == (413, "too_large")


def test_large_headers_are_refused():
    with scripted(settings=Settings(max_header_bytes=2000)) as served:
        assert refusal(served.client.get("/v1/models", headers={"x": "y" * 3000}))[::2] == (431, "too_large")


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/v1/nothing", 404), ("GET", "/v1/chat/completions", 405), ("POST", "/v1/models", 405)],
)
def test_what_is_not_there_is_said_in_openais_shape(method: str, path: str, status: int):
    with scripted() as served:
        assert refusal(served.client.request(method, path))[0] == status


def test_only_loopback_is_open_without_a_key():
    with pytest.raises(ValueError, match="--api-key"):
        Settings(host="0.0.0.0")
    assert Settings(host="0.0.0.0", api_keys=("long-enough",)).host == "0.0.0.0"
    with pytest.raises(ValueError, match="8 printable"):
        Settings(api_keys=("short",))
    assert [
        is_loopback(host) for host in ("localhost", "127.1.2.3", "::1", "[::1]", "0.0.0.0", "::", "example.com")
    ] == [True] * 4 + [False] * 3


def chat_logged(settings: Settings, caplog: pytest.LogCaptureFixture) -> str:
    with (
        caplog.at_level(logging.DEBUG),
        scripted(think("hidden thought") + final("hidden answer"), settings=settings) as served,
    ):
        body = {"messages": [{"role": "user", "content": "hidden question"}]}
        headers = {"authorization": "Bearer first-secret"}
        assert served.client.post("/v1/chat/completions?key=hidden", json=body, headers=headers).status_code == 200
    return caplog.text


def test_the_log_has_requests_but_no_words_and_no_secrets(caplog: pytest.LogCaptureFixture):
    logged = chat_logged(KEYS, caplog)
    assert "POST /v1/chat/completions 200" in logged
    assert "hidden" not in logged.replace("?key=hidden", "")  # httpx, the client, logs the address it asks
    assert "secret" not in logged


def test_words_are_logged_when_asked_for(caplog: pytest.LogCaptureFixture):
    logged = chat_logged(Settings(log_prompts=True), caplog)
    assert "hidden question" in logged
    assert "hidden answer" in logged


def test_metrics_count_requests_and_tokens():
    with scripted(final("ok")) as served:
        served.message()
        served.client.get("/v1/nothing")
        text = served.client.get("/metrics").text
    assert 'ossia_requests_total{route="/v1/chat/completions",status="200"} 1.0' in text
    assert 'ossia_requests_total{route="other",status="404"} 1.0' in text
    for name in (
        "waiting",
        "running",
        "prompt_tokens_total",
        "output_tokens_total",
        "cache_hit_ratio",
        "kv_used_ratio",
    ):
        assert f"\nossia_{name} " in text
    assert "ossia_first_token_seconds_count 1.0" in text
    assert "ossia_inter_token_seconds_count" in text
    assert "ossia_event_loop_lag_seconds_count" in text


@pytest.mark.parametrize(
    ("settings", "client"), [(Settings(), "127.0.0.1"), (Settings(behind_proxy=True), "192.0.2.7")]
)
def test_who_asks_is_what_a_proxy_says_only_where_there_is_one(settings: Settings, client: str):
    with scripted(final("ok"), settings=settings) as served:
        config = config_of(Context(settings, served.service))
    config.load()
    heard: list[str] = []

    async def app(scope: Scope, _: Receive, __: Send) -> None:
        heard.append(scope["client"][0])

    if isinstance(config.loaded_app, ProxyHeadersMiddleware):
        config.loaded_app.app = app  # type: ignore[assignment]
    else:
        config.loaded_app = app
    scope = {
        "type": "http",
        "scheme": "http",
        "client": ("127.0.0.1", 5),
        "headers": [(b"x-forwarded-for", b"192.0.2.7")],
    }
    asyncio.run(config.loaded_app(scope, None, None))  # type: ignore[arg-type]
    assert heard == [client]


def test_models_have_the_names_they_were_given():
    with scripted(final("ok"), settings=Settings(names=("gpt-oss:20b",))) as served:
        listed = served.client.get("/v1/models").json()
        assert [card["id"] for card in listed["data"]] == ["script", "gpt-oss:20b"]
        assert served.client.get("/v1/models/gpt-oss:20b").json()["object"] == "model"
        assert refusal(served.client.get("/v1/models/gpt-9")) == (404, "model", "model_not_found")
        assert served.client.get("/api/version").json() == {"version": "0.20.0"}
        assert [tag["name"] for tag in served.client.get("/api/tags").json()["models"]] == ["script", "gpt-oss:20b"]
        assert served.chat(model="gpt-oss:20b")["model"] == "gpt-oss:20b"


def test_an_unexpected_failure_is_a_500_without_its_details():
    with scripted() as served:
        served.service.model = None  # type: ignore[assignment]
        answer = served.client.post("/v1/chat/completions", json={"messages": [{"role": "user", "content": "hi"}]})
    assert refusal(answer)[0] == 500
    assert "None" not in answer.text
