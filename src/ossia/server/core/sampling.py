"""One sampling as the service sees it: its tokens, its time, and its errors as the API's errors.

In: a `TokenQueue` of the worker. Out: tokens, or an ApiError.
"""

import asyncio
import time
from dataclasses import dataclass, field

from ossia.chat import Usage
from ossia.engine.request import ContextError, DamagedModelError, Sampled
from ossia.server.core.admission import Ticket
from ossia.server.core.worker import EngineError, StoppedError, TokenQueue, UnreadError
from ossia.server.errors import ApiError, bad
from ossia.server.http.metrics import ServerMetrics


@dataclass(eq=False, slots=True)
class Sampling:
    """One admitted sampling of an answer. ticket: its place in the queue. requested_at, started_at: of the process's clock."""

    queue: TokenQueue
    ticket: Ticket
    metrics: ServerMetrics
    requested_at: float
    started_at: float = field(default_factory=time.perf_counter)
    timer: asyncio.TimerHandle | None = None
    tokens: int = 0
    last: float = 0.0
    ended: bool = False

    @property
    def cached_tokens(self) -> int:
        return self.queue.cached_tokens

    @property
    def written_tokens(self) -> int:
        return self.queue.written_tokens

    @property
    def prompt_usage(self) -> Usage:
        """What the prompt took; known from the first token on."""
        cached, written = self.cached_tokens, self.written_tokens
        return Usage(len(self.queue.prompt), cached_tokens=cached, written_tokens=written)

    async def next(self) -> Sampled | None:
        try:
            sampled = await self.queue.next()
        except ContextError as error:
            raise bad("messages", str(error), "context_length_exceeded") from error
        except StoppedError as error:
            raise stopping() from error
        except UnreadError as error:
            raise ApiError(408, f"the answer was not read: {error}", code="too_slow") from error
        except EngineError as error:
            raise ApiError(500, str(error), code="engine_failed") from error
        except DamagedModelError as error:
            raise ApiError(500, str(error), code="model_damaged", retry=False) from error
        except ValueError as error:  # a bias outside the vocabulary, a mask that leaves nothing
            raise ApiError(400, str(error), code="invalid_value") from error
        now = time.perf_counter()
        if sampled is not None:
            if self.tokens:
                self.metrics.between.observe(now - self.last)
            else:
                self.metrics.first_token.observe(now - self.requested_at)
            self.tokens, self.last = self.tokens + 1, now
        return sampled


def busy(message: str, seconds: int) -> ApiError:
    return ApiError(429, message, code="rate_limit_exceeded", headers={"retry-after": str(seconds)})


def stopping() -> ApiError:
    return ApiError(503, "the server is stopping", code="stopping", headers={"retry-after": "5"})
