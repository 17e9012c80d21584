"""Two routes of Ollama's API, which some clients call before they use its OpenAI routes: version and models.

Ollama's own chat API is not served.
"""

from datetime import UTC, datetime

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from ossia.server.core.context import Context
from ossia.server.http.requests import reply

VERSION = "0.20.0"  # the first with the Responses API


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
