"""MCP items of a conversation: listings that are known, and calls that a user approved or declined.

In: the items so far, and the open tools. Out: the items as messages can be made of them, and the calls that ran. A call
that was approved runs as it was written, without sampling again.
"""

import asyncio
from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from ossia.chat import TurnOptions
from ossia.harmony.messages import Message, assistant, tool
from ossia.harmony.openai_chat import JSON_TYPE
from ossia.server.apis.fields.hosted_tools import LeasedTools
from ossia.server.apis.responses.items import ConversationEntry
from ossia.server.apis.responses.output.mcp_writers import ApprovedCall
from ossia.server.apis.responses.wire.mcp import GivenMcpCall, ListedTool
from ossia.server.errors import bad
from ossia.server.http.decoding.json_codec import convert
from ossia.tokenizer.tokenizer import Tokenizer
from ossia.tools.functions import ToolOutput
from ossia.tools.mcp.results import McpListing, McpResult, McpTool
from ossia.tools.mcp.session import McpSession
from ossia.tools.result_text import bounded

LISTING, REQUEST, RESPONSE, CALL = "mcp_list_tools", "mcp_approval_request", "mcp_approval_response", "mcp_call"
NOT_RUN = "(this call was not run)"
UNANSWERED = "the approval request {0!r} has no mcp_approval_response; its call was left out"


class Answered(NamedTuple):
    """Items without approval requests; each response carries the call and its result. approved: what ran now."""

    entries: list[ConversationEntry]
    approved: list[ApprovedCall]


def known_listings(entries: Sequence[ConversationEntry]) -> dict[str, McpListing]:
    """The last listing of each server. Listings with an error, and malformed ones, are made again."""
    found: dict[str, McpListing] = {}
    for entry in entries:
        if entry.item["type"] != LISTING or entry.item.get("error"):
            continue
        try:
            tools = msgspec.convert(entry.item.get("tools"), list[ListedTool])
        except msgspec.ValidationError:
            continue
        label = str(entry.item.get("server_label"))
        found[label] = McpListing(
            label, [McpTool(each.name, each.description or "", each.input_schema, each.annotations) for each in tools]
        )
    return found


async def answer_approvals(
    earlier: Sequence[ConversationEntry],
    given: Sequence[ConversationEntry],
    hosted: LeasedTools,
    tokenizer: Tokenizer | None,
    warnings: list[str],
) -> Answered:
    """Run the calls that the request approves, once. Raises ApiError (400) for a response without its request.

    tokenizer: to cut long results; None runs nothing.
    """
    every = [*earlier, *given]
    requests = {entry.item["id"]: entry for entry in every if entry.item["type"] == REQUEST}
    made = {entry.item.get("approval_request_id") for entry in every if entry.item["type"] == CALL}
    answered: set[str] = set()
    result = Answered([], [])
    for number, entry in enumerate(every):
        kind = entry.item["type"]
        if kind in (LISTING, REQUEST):
            continue
        if kind != RESPONSE:
            result.entries.append(entry)
            continue
        request_id = entry.item["approval_request_id"]
        if request_id in made or request_id in answered:
            continue  # it ran: its mcp_call stands in the conversation
        answered.add(request_id)
        if (request := requests.get(request_id)) is None:
            raise bad(f"{entry.at}.approval_request_id", f"there is no approval request {request_id!r} before it")
        if entry.item["approve"] and number < len(earlier):
            continue  # that answer broke off before the call ran; a call never runs unasked
        call = await _answer(entry, request, hosted, tokenizer)
        result.entries.append(entry._replace(message=call.call, result=call.message))
        if entry.item["approve"]:
            result.approved.append(call)
    warnings += [UNANSWERED.format(each) for each in requests if each not in made and each not in answered]
    return result


async def _answer(
    entry: ConversationEntry, request: ConversationEntry, hosted: LeasedTools, tokenizer: Tokenizer | None
) -> ApprovedCall:
    """Run the call of a request, or say that it was declined."""
    wanted = convert(request.item, GivenMcpCall, request.at)
    session = hosted.mcp_session(wanted.server_label)
    name = (session.declared_name(wanted.name) if session else None) or wanted.name
    reason = entry.item.get("reason")
    if not entry.item["approve"]:
        why = str(reason) if reason else None
        output = session.declined(name, wanted.arguments, why) if session else _declined(why)
    elif tokenizer is None:
        output = ToolOutput(NOT_RUN)
    elif session is None:
        message = (
            f"the tools of this request do not name the MCP server {wanted.server_label!r}, or it cannot be listed"
        )
        raise bad(f"{entry.at}.approval_request_id", message)
    else:
        output = await session.run_approved(name, wanted.arguments)
    call = request.message or _call(wanted, session, name)
    text = output.text
    if tokenizer is not None:
        text = await asyncio.to_thread(bounded, tokenizer, text, TurnOptions().tool_tokens)
    details = output.details
    result = (
        details if isinstance(details, McpResult) else McpResult(wanted.server_label, wanted.name, wanted.arguments)
    )
    answer = tool(str(call.recipient), text, call.channel or "commentary")
    return ApprovedCall(str(request.item["id"]), result, output.failed, call, answer)


def _declined(reason: str | None) -> ToolOutput:
    return ToolOutput(
        f"The user declined this call: {reason}" if reason else "The user declined this call.", failed=True
    )


def _call(wanted: GivenMcpCall, session: McpSession | None, name: str) -> Message:
    """The call as the model would have written it, from an item without the sampled message."""
    space = session.namespace.name if session else wanted.server_label
    return assistant(wanted.arguments, "commentary", f"{space}.{name}", JSON_TYPE)
