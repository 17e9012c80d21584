"""Limits of MCP sessions: sizes, times and numbers of calls."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class McpLimits:
    """max_bytes: of one message of a server; reading a message of this size must not block the event loop for long.

    max_result: bytes of a result's text. max_calls: of one response.
    """

    max_bytes: int = 524_288
    max_result: int = 65_536
    max_calls: int = 32
    max_listed: int = 2_000  # tools, before allowed_tools
    max_pages: int = 64
    connect_seconds: float = 20.0
    call_seconds: float = 60.0
    close_seconds: float = 5.0


OPERATOR_LIMITS = McpLimits(max_bytes=8_388_608, connect_seconds=60.0)
REQUEST_LIMITS = McpLimits()
