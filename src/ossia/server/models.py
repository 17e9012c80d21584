"""/v1/models, /health and /metrics: what is here, and how it is.

In: requests without a body. Out: JSON, and Prometheus's text. It does not know conversations.
"""

import time

from prometheus_client import CONTENT_TYPE_LATEST
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from ossia.server.context import Context
from ossia.server.http import reply


def routes(context: Context) -> list[Route]:
    started = int(time.time())

    def card(name: str) -> dict[str, object]:
        """root: the model's own name, as vLLM says it, so that a list can leave its other names out."""
        own, length = context.service.name, context.service.context
        common = {"id": name, "object": "model", "created": started, "owned_by": "ossia"}
        return {**common, "root": own, "max_model_len": length}

    async def listed(_: Request) -> Response:
        return reply({"object": "list", "data": [card(name) for name in context.names]})

    async def one(request: Request) -> Response:
        return reply(card(context.check_model(request.path_params["name"])))

    async def health(_: Request) -> Response:
        state = context.service.state
        return reply({"status": state, "model": context.service.name}, 200 if state == "ok" else 503)

    async def metrics(_: Request) -> Response:
        text = await run_in_threadpool(context.service.metrics.text)
        return Response(text, media_type=CONTENT_TYPE_LATEST)

    return [
        Route("/v1/models", listed),
        Route("/v1/models/{name:path}", one),
        Route("/health", health),
        Route("/metrics", metrics),
    ]
