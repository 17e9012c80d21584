"""A response before its first token: the fields of the request as the API shows them again.

In: a request. Out: the response object.
"""

import time
from collections.abc import Mapping

from ossia.harmony.client_tools import Toolbox
from ossia.harmony.openai_chat import ANY_OBJECT, effort_of
from ossia.server.apis.fields.answer_form import RequestedForm
from ossia.server.apis.fields.client_run_tools import ClientKind, client_kind
from ossia.server.apis.fields.hosted_tools import LeasedTools
from ossia.server.apis.fields.mcp_tools import shown_server
from ossia.server.apis.responses import wire
from ossia.server.apis.responses.items import new_id
from ossia.server.http.decoding.json_codec import JsonDict


def new_response(request: wire.ResponsesRequest, model: str, conversation: str | None, store: bool) -> wire.Response:
    """The response to a request, without its text format and tools."""
    reasoning = request.reasoning or wire.Reasoning()
    summary = reasoning.summary or reasoning.generate_summary
    return wire.Response(
        id=new_id("resp"),
        created_at=int(time.time()),
        status="queued" if request.background else "in_progress",
        model=request.model or model,
        background=bool(request.background),
        conversation=wire.ConversationId(conversation) if conversation else None,
        instructions=request.instructions,
        max_output_tokens=request.max_output_tokens,
        max_tool_calls=request.max_tool_calls,
        metadata=dict(request.metadata or {}),
        parallel_tool_calls=request.parallel_tool_calls is not False,
        previous_response_id=request.previous_response_id,
        prompt_cache_key=request.prompt_cache_key,
        reasoning=wire.ReasoningShown(_shown_effort(reasoning.effort), summary if summary != "none" else None),
        safety_identifier=request.safety_identifier,
        store=store,
        temperature=1.0 if request.temperature is None else request.temperature,
        top_logprobs=request.top_logprobs or 0,
        top_p=1.0 if request.top_p is None else request.top_p,
        truncation=request.truncation or "disabled",
        user=request.user,
    )


def _shown_effort(given: str | None) -> str | None:
    """The effort in the API's spelling; None if unset."""
    return (given or "").strip().lower() if effort_of(given) else None


def shown_text(text: wire.Text, form: RequestedForm) -> JsonDict:
    """The format as the response shows it. One that OpenAI's types lack is shown as text."""
    given, shown = text.format or {}, form.shown[0] if form.shown else None
    shown_format: JsonDict = {"type": "text"}
    if isinstance(form.enforced, Mapping) and (shown is None or form.enforced == ANY_OBJECT != given.get("schema")):
        shown_format = {"type": "json_object"}
    elif isinstance(form.enforced, Mapping) and shown:
        shown_format = {
            "type": "json_schema",
            "name": shown.name,
            "schema": form.enforced,
            "strict": given.get("strict") is True,
        }
        shown_format |= {"description": shown.description} if shown.description else {}
    return {"format": shown_format, "verbosity": text.verbosity or "medium"}


def shown_tool(tool: JsonDict, hosted: LeasedTools) -> JsonDict | None:
    """A tool in the API's form; None for an ignored one."""
    kind = tool.get("type")
    if hosted.has_server(tool):
        return shown_server(tool)
    if hosted.names_kind(kind) or client_kind(tool):
        return tool
    nested = tool.get(str(kind))
    inner: JsonDict = nested if isinstance(nested, dict) else tool
    head = {"type": kind, "name": inner.get("name"), "description": inner.get("description")}
    match kind:
        case "function":
            strict = inner.get("strict")
            own = {"parameters": inner.get("parameters"), "strict": strict if isinstance(strict, bool) else None}
            return {**head, **own}
        case "custom":
            return head
        case "namespace":
            members = [shown for each in tool["tools"] if (shown := shown_tool(each, hosted))]
            return {**head, "description": head["description"] or "", "tools": members}
    return None


def shown_choice(box: Toolbox, hosted: LeasedTools, client_kinds: Mapping[str, ClientKind]) -> str | JsonDict:
    """The tool choice in the API's form. client_kinds: of functions that stand for a tool of the client."""
    if forced := hosted.shown_choice:
        return forced
    if box.allowed is not None:
        tools = [{"type": "function", "name": box.called[each].name} for each in sorted(box.allowed)]
        return {"type": "allowed_tools", "mode": box.choice, "tools": tools}
    if called := box.called.get(box.choice):
        if kind := client_kinds.get(called.name):
            return {"type": kind}
        return {"type": "custom" if called.custom else "function", "name": called.name}
    return box.choice
