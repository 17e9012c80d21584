"""Asks a model behind an OpenAI-compatible endpoint, by the Responses API or by Chat Completions.

In: a URL, a model's name, a key. Out: `Reply`s. Reasoning goes back between calls. The key is never logged.
"""

import asyncio
import random
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import httpx

from ossia.evals.core.benchmark import Ask, Reply, TestedModel
from ossia.evals.core.solver import SamplingSettings, TryKey, ask_seed
from ossia.evals.solvers.wire_forms import (
    BadReplyError,
    chat_reply,
    chat_request,
    responses_reply,
    responses_request,
)
from ossia.harmony.messages import JsonObject

Api = Literal["responses", "chat"]
RETRIES = 5
WAIT_MOST = 60.0  # seconds between two attempts
TEMPORARY = frozenset((408, 409, 425, 429))
LEFT_OUT_IF_REFUSED = ("seed", "temperature", "top_p", "stop", "reasoning_effort", "reasoning")
SHOWN_ERROR = 500  # characters of a server's error


@dataclass(frozen=True, slots=True)
class EndpointSettings:
    """Where the model is, and how it is asked.

    - url: with or without /v1. api_key: None for a server without keys.
    - tools: types of tools that the endpoint runs itself, such as "code_interpreter".
    - together: requests at once. backoff: seconds before the first retry; they double.
    """

    url: str
    model: str = ""
    api_key: str | None = field(default=None, repr=False)
    api: Api = "chat"
    tools: tuple[str, ...] = ()
    together: int = 64
    backoff: float = 1.0

    @property
    def base(self) -> str:
        url = self.url.rstrip("/")
        return url if url.endswith("/v1") else f"{url}/v1"


class Endpoint:
    """A `Solver` over HTTP. transport: for tests."""

    def __init__(self, settings: EndpointSettings, transport: httpx.AsyncBaseTransport | None = None) -> None:
        if not settings.url.startswith(("http://", "https://")):
            raise ValueError(f"--endpoint {settings.url!r} is no URL: give http://HOST:PORT or https://HOST/v1")
        self.settings = settings
        self._transport = transport
        self._tls = httpx.create_ssl_context() if settings.url.startswith("https://") else True
        self._together = asyncio.Semaphore(settings.together)
        self._idle: list[httpx.AsyncClient] = []
        self._clients: list[httpx.AsyncClient] = []
        self.left_out: set[str] = set()

    @property
    def name(self) -> str:
        return self.settings.model or self.settings.base

    def facts(self) -> dict[str, Any]:
        back = "encrypted items" if self.settings.api == "responses" else "reasoning and reasoning_content"
        return {
            "solver": "endpoint",
            "model": self.name,
            "endpoint": self.settings.base,
            "api": self.settings.api,
            "reasoning": back,
            "hosted_tools": list(self.settings.tools),
            "left_out": sorted(self.left_out),
        }

    def model(self, key: TryKey, seed: int, sampling: SamplingSettings) -> TestedModel:
        return _TryAtEndpoint(self, key, seed, sampling)

    async def close(self) -> None:
        await asyncio.gather(*(client.aclose() for client in self._clients))

    @asynccontextmanager
    async def _client(self) -> AsyncGenerator[httpx.AsyncClient, None]:
        """A client with one connection: a pool's work for each request grows with its connections."""
        async with self._together:
            client = self._idle.pop() if self._idle else self._new_client()
            try:
                yield client
            finally:
                self._idle.append(client)

    def _new_client(self) -> httpx.AsyncClient:
        key = self.settings.api_key
        client = httpx.AsyncClient(
            headers={"Authorization": f"Bearer {key}"} if key else {},
            limits=httpx.Limits(max_connections=1, max_keepalive_connections=1),
            # a hard question takes minutes to hours: only the connection has a time limit
            timeout=httpx.Timeout(None, connect=30.0),
            transport=self._transport,
            verify=self._tls,
        )
        self._clients.append(client)
        return client

    async def check(self) -> None:
        """Fill in the model's name from the server if none was given. Raises ValueError if it cannot be reached."""
        if self.settings.model:
            return
        try:
            async with self._client() as client:
                answer = await client.get(f"{self.settings.base}/models")
            names = [each["id"] for each in answer.json()["data"]]
        except (httpx.HTTPError, ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"{self.settings.base}/models gave no model's name ({error}): is the server running? Or give -m NAME"
            ) from error
        if not names:
            raise ValueError(f"{self.settings.base}/models lists no model: give -m NAME")
        self.settings = replace(self.settings, model=names[0])

    async def ask(self, ask: Ask, key: TryKey, seed: int, sampling: SamplingSettings) -> Reply:
        settings = self.settings
        make, read = (responses_request, responses_reply) if settings.api == "responses" else (chat_request, chat_reply)
        body = make(ask, settings.model, key.effort, seed, sampling, settings.tools)
        path = "responses" if settings.api == "responses" else "chat/completions"
        try:
            async with self._client() as client:
                answer = await self._post(client, path, body)
            return read(answer)
        except (_EndpointError, BadReplyError) as error:
            return Reply(None, {"role": "assistant", "content": None}, finish="error", error=str(error))

    async def _post(self, client: httpx.AsyncClient, path: str, body: JsonObject) -> Mapping[str, Any]:
        """The endpoint's answer, after at most RETRIES further attempts."""
        error = ""
        for attempt in range(RETRIES + 1):
            if attempt:
                await asyncio.sleep(
                    min(WAIT_MOST, self.settings.backoff * 2 ** (attempt - 1)) * (0.5 + random.random())
                )
            sent = {name: value for name, value in body.items() if name not in self.left_out}
            try:
                answer = await client.post(f"{self.settings.base}/{path}", json=sent)
            except httpx.HTTPError as failed:
                error = f"{type(failed).__name__}: {failed}"
                continue
            if answer.status_code == 200:
                return _object(answer)
            error = f"HTTP {answer.status_code}: {answer.text[:SHOWN_ERROR]}"
            if answer.status_code == 400 and (name := _refused_field(answer, sent)):
                self.left_out.add(name)
                continue
            if answer.status_code not in TEMPORARY and answer.status_code < 500:
                raise _EndpointError(error)
        raise _EndpointError(f"no answer after {RETRIES} retries: {error}")


class _EndpointError(Exception):
    """The endpoint gave no answer, after the retries."""


def _object(answer: httpx.Response) -> Mapping[str, Any]:
    try:
        value: object = answer.json()
    except ValueError as error:
        raise _EndpointError(f"the answer is no JSON: {answer.text[:SHOWN_ERROR]!r}") from error
    if not isinstance(value, Mapping):
        raise _EndpointError(f"the answer is no JSON object: {answer.text[:SHOWN_ERROR]!r}")
    return value


def _refused_field(answer: httpx.Response, sent: Mapping[str, Any]) -> str | None:
    """The optional field that a server does not know, as OpenAI's errors name it."""
    try:
        param = str(answer.json()["error"]["param"])
    except (ValueError, KeyError, TypeError):
        return None
    name = param.split(".")[0]
    return name if name in sent and name in LEFT_OUT_IF_REFUSED else None


@dataclass
class _TryAtEndpoint:
    """The model of one try."""

    endpoint: Endpoint
    key: TryKey
    seed: int
    sampling: SamplingSettings
    asks: int = 0

    async def __call__(self, ask: Ask) -> Reply:
        seed = ask_seed(self.seed, self.key, self.asks)
        self.asks += 1
        return await self.endpoint.ask(ask, self.key, seed, self.sampling)
