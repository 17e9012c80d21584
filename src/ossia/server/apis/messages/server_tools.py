"""The server's own tools in the Messages API: web_search, web_fetch and code_execution.

In: the tools of a request, and the pieces of an answer. Out: the same tools in the form of OpenAI's APIs, and blocks:
`server_tool_use` for a call, and a result block of its tool after it.
"""

import re
import secrets
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

from msgspec import Struct, field

from ossia.server.core.events import Citation, HostedCallEnd
from ossia.server.http.decoding.json_codec import loads
from ossia.tools.browser.results import BrowserResult
from ossia.tools.python.results import PythonResult

# Anthropic's types carry the date of a version: web_search_20250305.
_TYPES = re.compile(r"(web_search|web_fetch|code_execution)_\d{8}")
_OURS = {"web_search": "web_search", "web_fetch": "web_search", "code_execution": "code_interpreter"}
_DONE_BY = {"browser.search": "web_search", "python": "code_execution"}

ServerToolName = Literal["web_search", "web_fetch", "code_execution"]


class ServerToolUseBlock(Struct, tag="server_tool_use"):
    """A call of one of the server's tools."""

    id: str
    name: ServerToolName
    input: dict[str, Any] = field(default_factory=dict[str, Any])


class WebSearchHit(Struct, tag="web_search_result"):
    """encrypted_content: required by clients; it has no meaning here."""

    url: str
    title: str
    encrypted_content: str = ""
    page_age: str | None = None


class WebSearchError(Struct, tag="web_search_tool_result_error"):
    error_code: Literal["unavailable"] = "unavailable"


class WebSearchResultBlock(Struct, tag="web_search_tool_result"):
    tool_use_id: str
    content: list[WebSearchHit] | WebSearchError


class FetchedText(Struct, tag="text"):
    data: str
    media_type: Literal["text/plain"] = "text/plain"


class FetchedDocument(Struct, tag="document"):
    source: FetchedText
    title: str | None = None
    citations: None = None


class WebFetched(Struct, tag="web_fetch_result"):
    url: str
    content: FetchedDocument
    retrieved_at: str | None = None


class WebFetchError(Struct, tag="web_fetch_tool_result_error"):
    error_code: Literal["unavailable"] = "unavailable"


class WebFetchResultBlock(Struct, tag="web_fetch_tool_result"):
    tool_use_id: str
    content: WebFetched | WebFetchError


class CodeResult(Struct, tag="code_execution_result"):
    stdout: str
    stderr: str = ""
    return_code: int = 0
    content: list[Any] = field(default_factory=list[Any])


class CodeError(Struct, tag="code_execution_tool_result_error"):
    error_code: Literal["unavailable", "execution_time_exceeded"] = "unavailable"


class CodeResultBlock(Struct, tag="code_execution_tool_result"):
    tool_use_id: str
    content: CodeResult | CodeError


ToolResultBlock = WebSearchResultBlock | WebFetchResultBlock | CodeResultBlock


class WebSearchCitation(Struct, tag="web_search_result_location"):
    """A source of the text block. encrypted_index: required by clients; it has no meaning here."""

    url: str
    title: str | None
    cited_text: str = ""
    encrypted_index: str = ""


class ServerToolCounts(Struct):
    web_search_requests: int = 0
    web_fetch_requests: int = 0

    def add(self, name: ServerToolName) -> None:
        self.web_search_requests += name == "web_search"
        self.web_fetch_requests += name == "web_fetch"


class OfferedTools(NamedTuple):
    """A request's tools, with Anthropic's server tools in the form of OpenAI's APIs."""

    tools: list[dict[str, Any]] | None
    tool_choice: dict[str, Any] | None


def offered(tools: Sequence[dict[str, Any]], choice: dict[str, Any] | None, warnings: list[str]) -> OfferedTools:
    """The tools and the choice as Chat Completions has them. warnings: gets what is not honoured."""
    made: list[dict[str, Any]] = []
    kinds: dict[str, str] = {}
    for number, tool in enumerate(tools):
        found = _TYPES.fullmatch(str(tool.get("type")))
        if found is None:
            made.append(tool)
            continue
        kind = _OURS[found[1]]
        kinds[str(tool.get("name") or found[1])] = kind
        ours = _converted(kind, tool, f"tools[{number}]", warnings)
        if kind not in [each.get("type") for each in made]:  # search and fetch are one browser
            made.append(ours)
    if choice and choice.get("type") == "tool" and (kind := kinds.get(str(choice.get("name")))):
        choice = {"type": kind}
    return OfferedTools(made or None, choice)


def _converted(kind: str, tool: Mapping[str, Any], at: str, warnings: list[str]) -> dict[str, Any]:
    ours: dict[str, Any] = {"type": kind}
    if kind == "web_search" and (allowed := tool.get("allowed_domains")):
        ours["filters"] = {"allowed_domains": allowed}
    for name in ("blocked_domains", "max_uses", "max_content_tokens", "user_location"):
        if tool.get(name) is not None:
            warnings.append(f"{at}.{name} has no effect on this server")
    return ours


def use_block(recipient: str) -> ServerToolUseBlock:
    """The block of a call that begins."""
    name = _DONE_BY.get(recipient, "web_fetch" if recipient.startswith("browser.") else "code_execution")
    return ServerToolUseBlock(f"srvtoolu_{secrets.token_hex(12)}", name)  # type: ignore[arg-type]


def input_of(block: ServerToolUseBlock, piece: HostedCallEnd) -> dict[str, Any]:
    """The arguments of a call that was run, by the names of Anthropic's tools."""
    result = piece.details
    if isinstance(result, BrowserResult):
        return {"query": result.query or ""} if block.name == "web_search" else {"url": result.url or ""}
    if block.name == "code_execution":
        return {"code": result.code if isinstance(result, PythonResult) else piece.call.text}
    return _arguments(piece.call.text)


def _arguments(text: str) -> dict[str, Any]:
    try:
        found = loads(text)
    except (ValueError, RecursionError):
        found = None
    return found if isinstance(found, dict) else {"text": text}


def result_block(block: ServerToolUseBlock, piece: HostedCallEnd) -> ToolResultBlock:
    """What the call gave."""
    result, text = piece.details, piece.result.text
    if block.name == "web_search":
        if piece.failed or not isinstance(result, BrowserResult):
            return WebSearchResultBlock(block.id, WebSearchError())
        return WebSearchResultBlock(block.id, [WebSearchHit(url, url) for url in result.sources])
    if block.name == "web_fetch":
        if piece.failed or not isinstance(result, BrowserResult):
            return WebFetchResultBlock(block.id, WebFetchError())
        page = FetchedDocument(FetchedText(text), result.title or None)
        return WebFetchResultBlock(block.id, WebFetched(result.url or "", page))
    if isinstance(result, PythonResult) and result.timed_out:
        return CodeResultBlock(block.id, CodeError("execution_time_exceeded"))
    return CodeResultBlock(block.id, CodeResult(text, return_code=1 if piece.failed else 0))


def citation(piece: Citation) -> WebSearchCitation:
    return WebSearchCitation(piece.source.url, piece.source.title or None)
