"""The two questions that some clients ask an Ollama server before they use its OpenAI routes.

In: nothing. Out: a version, and the models by the names clients ask for. It does not know Ollama's own chat API.
"""

from datetime import UTC, datetime

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from ossia.server.core.context import Context
from ossia.server.http.requests import reply

VERSION = "0.20.0"  # the least that has the Responses API


def routes(context: Context) -> list[Route]:
    started = datetime.now(UTC).isoformat()

    def tag(name: str) -> dict[str, object]:
        details = {"format": "safetensors", "family": "gptoss", "families": ["gptoss"]}
        return {"name": name, "model": name, "modified_at": started, "size": 0, "digest": "", "details": details}

    async def version(_: Request) -> Response:
        return reply({"version": VERSION})

    async def tags(_: Request) -> Response:
        return reply({"models": [tag(name) for name in context.names]})

    return [Route("/api/version", version), Route("/api/tags", tags)]
