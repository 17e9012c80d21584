"""Errors of the APIs.

Input: a status and a message. Output: JSON in OpenAI's form, or in Anthropic's under /v1/messages.
"""

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from typing import Any

from ossia.harmony.errors import InputError

TYPES = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}
ANTHROPIC = "/v1/messages"
ANTHROPIC_TYPES = {**TYPES, 413: "request_too_large", 503: "overloaded_error"}
RETRIED = (408, 409, 429)  # 4xx errors after which the same request may succeed
SHOULD_RETRY = "x-should-retry"  # the SDKs of OpenAI and Anthropic obey it
MAX_MESSAGE = 2000  # characters


def shortened(text: str) -> str:
    """A long text's beginning and end: an error may quote megabytes of a request."""
    return text if len(text) <= MAX_MESSAGE else f"{text[: MAX_MESSAGE // 2]} … {text[-MAX_MESSAGE // 2 :]}"


class ApiError(Exception):
    """An error response. param: the path of the invalid field. code: for programs.

    retry: whether the same request may succeed later; by default from the status. anthropic: the message under
    /v1/messages, whose clients expect other words. details: for Anthropic's clients.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        type: str | None = None,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
        retry: bool | None = None,
        anthropic: str | None = None,
        details: Mapping[str, str] | None = None,
    ) -> None:
        message = shortened(message)
        super().__init__(message)
        self.status, self.message, self.param, self.code = status, message, param and shortened(param), code
        self.type = type or TYPES.get(status, "server_error" if status >= 500 else "invalid_request_error")
        self.retry = retry if retry is not None else status in RETRIED or (status >= 500 and status != 501)
        self.headers = {**(headers or {}), SHOULD_RETRY: "true" if self.retry else "false"}
        self.anthropic, self.details = shortened(anthropic or message), dict(details or {})

    def body(self, path: str = "") -> dict[str, Any]:
        """The body in the form of the API under this path; OpenAI's by default."""
        if path == ANTHROPIC or path.startswith(f"{ANTHROPIC}/"):
            kind = ANTHROPIC_TYPES.get(self.status, "api_error" if self.status >= 500 else "invalid_request_error")
            refused: dict[str, Any] = {"type": kind, "message": self.anthropic}
            return {"type": "error", "error": {**refused, "details": self.details} if self.details else refused}
        error = {"message": self.message, "type": self.type, "param": self.param, "code": self.code}
        return {"error": error}


def bad(param: str | None, message: str, code: str = "invalid_value") -> ApiError:
    """The error for an invalid field of a request."""
    return ApiError(400, message, param=param, code=code)


def too_long(tokens: int, context: int, param: str, *, at_least: bool = False) -> ApiError:
    """The error for a prompt that does not fit, in words that clients recognise to shorten the conversation.

    at_least: the prompt was not tokenized to its end and may have more tokens.
    """
    count = f"at least {tokens}" if at_least else str(tokens)
    most = f"This model's maximum context length is {context} tokens"
    if param == "prompt":  # OpenAI's words for completions
        parts = f"({count} in your prompt; at least 1 for the completion)"
        message = (
            f"{most}, however you requested {count} tokens {parts}. Please reduce your prompt; or completion length."
        )
    else:
        wish = "Please reduce the length of the messages."
        message = f"{most}. However, your messages resulted in {count} tokens. {wish}"
    anthropic = f"prompt is too long: {count} tokens > {context} maximum"
    return ApiError(400, message, param=param, code="context_length_exceeded", anthropic=anthropic)


def invalid_input(error: InputError) -> ApiError:
    """The 400 for input that the code below the server rejects."""
    message, anthropic = str(error), None
    if (error.param, error.code) == ("response_format", "invalid_json_schema"):
        anthropic = f"output_config.format.schema: {message}"  # Anthropic's errors have no field for it
    return ApiError(400, message, param=error.param, code=error.code, anthropic=anthropic)


@contextmanager
def input_errors(names: Mapping[str, str] | None = None) -> Generator[None]:
    """Turn InputError into ApiError (400). names: what this API calls the fields that an error may name."""
    try:
        yield
    except (InputError, ApiError) as error:
        refused = invalid_input(error) if isinstance(error, InputError) else error
        if names and refused.param:
            refused.param = names.get(refused.param, refused.param)
        if refused is error:
            raise
        raise refused from error
