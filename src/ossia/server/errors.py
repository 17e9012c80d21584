"""What a client is told when its request cannot be answered.

In: a status and words. Out: the JSON that OpenAI's clients read, or, under /v1/messages, Anthropic's.
It does not know HTTP beyond that, nor what went wrong.
"""

from collections.abc import Mapping
from typing import Any

TYPES = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}
ANTHROPIC = "/v1/messages"
ANTHROPIC_TYPES = {**TYPES, 413: "request_too_large", 503: "overloaded_error"}


class ApiError(Exception):
    """A refusal. `param` is the field at fault (a dotted path), `code` what a program can compare."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        type: str | None = None,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.param, self.code = status, message, param, code
        self.type = type or TYPES.get(status, "server_error" if status >= 500 else "invalid_request_error")
        self.headers = dict(headers or {})

    def body(self, path: str = "") -> dict[str, Any]:
        """In OpenAI's shape, or the one of the API under this path."""
        if path == ANTHROPIC or path.startswith(f"{ANTHROPIC}/"):
            kind = ANTHROPIC_TYPES.get(self.status, "api_error" if self.status >= 500 else "invalid_request_error")
            return {"type": "error", "error": {"type": kind, "message": self.message}}
        error = {"message": self.message, "type": self.type, "param": self.param, "code": self.code}
        return {"error": error}


def bad(param: str | None, message: str, code: str = "invalid_value") -> ApiError:
    """A field of the request that cannot be."""
    return ApiError(400, message, param=param, code=code)
