"""/v1/models, /health and /metrics.

In: requests without a body. Out: JSON, and Prometheus's text.
"""

import time
from datetime import UTC, datetime

from prometheus_client import CONTENT_TYPE_LATEST
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from ossia.server.apis.fields.hosted_tools import offered_types
from ossia.server.core.context import Context
from ossia.server.http.requests import reply

# of vLLM, OpenRouter, Groq, LM Studio and Anthropic
CONTEXT_NAMES = ("max_model_len", "context_length", "context_window", "max_context_length", "max_input_tokens")


def routes(context: Context) -> list[Route]:
    started = int(time.time())
    created = datetime.fromtimestamp(started, UTC).isoformat().replace("+00:00", "Z")

    def card(name: str) -> dict[str, object]:
        """The fields of OpenAI and Anthropic, and the context length under each name that clients use.

        root: the model's own name, as in vLLM, so that a list can hide its other names. hosted_tools: the types of tools
        that this server runs itself, as requests name them.
        """
        openai = {"id": name, "object": "model", "created": started, "owned_by": "ossia"}
        anthropic = {"type": "model", "display_name": name, "created_at": created}
        lengths = dict.fromkeys(CONTEXT_NAMES, context.service.context)
        own = {"name": name, "root": context.service.name, "hosted_tools": offered_types(context.hosted.available)}
        return {**openai, **anthropic, **own, **lengths}

    async def listed(_: Request) -> Response:
        """All models on one page, also for Anthropic's clients."""
        page = {"has_more": False, "first_id": context.names[0], "last_id": context.names[-1]}
        return reply({"object": "list", "data": [card(name) for name in context.names], **page})

    async def one(request: Request) -> Response:
        return reply(card(context.check_model(request.path_params["name"])))

    async def health(_: Request) -> Response:
        status = context.service.state
        state = context.store.condition if context.store else "off"
        body = {"status": status, "model": context.service.name, "state": state}
        return reply(body, 200 if status == "ok" else 503)

    async def metrics(_: Request) -> Response:
        text = await run_in_threadpool(context.service.metrics.text)
        return Response(text, media_type=CONTENT_TYPE_LATEST)

    return [
        Route("/v1/models", listed),
        Route("/v1/models/{name:path}", one),
        Route("/health", health),
        Route("/metrics", metrics),
    ]
