"""The application: all routes behind the access rules, with errors in the form of each API.

In: the server's context. Out: an ASGI app. Sockets and signals are in `run`.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from ossia.server.apis import completions, models, ollama, openapi, render
from ossia.server.apis.chat import chat_routes
from ossia.server.apis.messages import messages_routes
from ossia.server.apis.responses.routes import responses
from ossia.server.core.context import Context
from ossia.server.core.warnings import HEADER
from ossia.server.errors import ApiError
from ossia.server.http.decoding.bodies import Bodies
from ossia.server.http.decoding.token_bound import TextBound
from ossia.server.http.guard import Guard
from ossia.server.http.loop_lag import measure_lag
from ossia.server.http.requests import error_response
from ossia.server.http.web import page

log = logging.getLogger("ossia.server")


def app(context: Context) -> Starlette:
    """The whole server. Its lifespan starts and closes the service."""
    settings, responses_api, service = context.settings, responses(context), context.service
    bodies = Bodies(settings.max_total_body_bytes, TextBound(service.limits.shares, service.context))

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncGenerator[None]:
        await context.hosted.check()
        context.service.start()
        lag = asyncio.ensure_future(measure_lag(service.metrics.lag.observe))
        try:
            yield
        finally:
            lag.cancel()
            await responses_api.close()
            await context.hosted.close()
            await context.service.close()
            bodies.close()

    middleware = [Middleware(Guard, settings=settings, metrics=service.metrics, bodies=bodies)]
    if settings.allow_origins:
        allowed: dict[str, Any] = {
            "allow_origins": settings.allow_origins,
            "allow_methods": ["*"],
            "allow_headers": ["*"],
        }
        allowed["expose_headers"] = [HEADER]
        middleware.insert(0, Middleware(CORSMiddleware, **allowed))
    starlette = Starlette(
        routes=[*routes(context), *render.routes(responses_api.context), *responses_api.routes(), *web_chat()],
        middleware=middleware,
        lifespan=lifespan,
        exception_handlers={
            ApiError: _refused,  # type: ignore[dict-item]
            HTTPException: _not_served,  # type: ignore[dict-item]
            ClientDisconnect: _disconnected,  # type: ignore[dict-item]
            Exception: _failed,
        },
    )
    starlette.router.redirect_slashes = False
    return starlette


def routes(context: Context) -> list[BaseRoute]:
    parts = (chat_routes, completions, messages_routes, models, ollama, openapi)
    return [route for part in parts for route in part.routes(context)]


def web_chat() -> list[BaseRoute]:
    body, headers = page()

    async def show(_: Request) -> Response:
        return Response(body, headers=headers)

    return [Route("/", show)]


async def _refused(request: Request, error: ApiError) -> Response:
    return error_response(error, request.url.path)


async def _not_served(request: Request, error: HTTPException) -> Response:
    """The error for an unknown address or method."""
    known = error.status_code == 404
    code, what = ("not_found", "there is no such address") if known else ("method_not_allowed", "not with this method")
    message = (
        f"{request.method} {request.url.path[:200]}: {what}; OpenAI's API is under /v1, and /openapi.json lists all"
    )
    refused = ApiError(error.status_code, message, code=code, headers=dict(error.headers or {}))
    return error_response(refused, request.url.path)


async def _disconnected(_: Request, __: ClientDisconnect) -> Response:
    return Response(status_code=499)


async def _failed(request: Request, error: Exception) -> Response:
    """An unexpected error: 500 for the client, the details in the log only."""
    return error_response(ApiError(500, "the server failed: its log says why", code="internal_error"), request.url.path)
