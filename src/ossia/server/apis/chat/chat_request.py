"""Converts a chat request to an `AnswerRequest`: harmony messages, tools, answer format, sampling parameters.

In: wire types, and the memory of earlier calls. Out: a `PreparedChat`, or an `ApiError` that names the field.
"""

import asyncio
import re
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, NamedTuple

from ossia.chat import TurnOptions
from ossia.engine.request import SamplingParams
from ossia.harmony.client_tools import Toolbox, toolbox
from ossia.harmony.messages import Message, System, assistant
from ossia.harmony.openai_chat import ChatMessage, read_history, text_of
from ossia.harmony.opening import opening as lines
from ossia.server.apis.chat.chat_wire import ChatRequest, ThinkingOptions
from ossia.server.apis.fields.answer_form import form_of
from ossia.server.apis.fields.extensions import OssiaFields, not_honoured
from ossia.server.apis.fields.hosted_tools import LeasedTools, leased_tools
from ossia.server.apis.fields.sampling import limit, sampling_params, stop_strings
from ossia.server.apis.fields.thinking import Thinking, template_warnings, thinking_of
from ossia.server.core.context import CallHistory, Context, recall_calls
from ossia.server.core.limits import MIN_MESSAGE_TOKENS
from ossia.server.core.request import AnswerRequest, conversation
from ossia.server.core.service import Service
from ossia.server.errors import ApiError, bad, input_errors

MAX_CALLS = 16  # of one turn, with parallel_tool_calls
NESTED = re.compile(r"^tools\[(\d+)\](?:\.function(?=\.|$))?")
MAX_CHOICES = 16


class PreparedChat(NamedTuple):
    """A chat request, ready for the service.

    choices: the number of answers. store: whether the reasoning before its calls may be written to disk.
    warnings: about ignored fields. form_param: the field that sets the answer's format.
    hides_reasoning: the answer has no reasoning. legacy: calls are written as OpenAI's older function_call.
    hosted: the server's own tools of the first answer, which the caller releases.
    """

    answer: AnswerRequest
    toolbox: Toolbox
    choices: int
    store: bool
    hosted: LeasedTools
    warnings: tuple[str, ...] = ()
    form_param: str = "response_format"
    hides_reasoning: bool = False
    legacy: bool = False

    @property
    def field_names(self) -> dict[str, str]:
        """The names of this API for fields that an error of the service may name."""
        return {"response_format": self.form_param}

    def choice(self, index: int) -> AnswerRequest:
        """The request for one of several answers. Each has its own seed."""
        params = self.answer.options.params
        if not index or params.seed is None:
            return self.answer
        options = replace(self.answer.options, params=replace(params, seed=params.seed + 1_000_003 * index))
        return replace(self.answer, options=options)

    async def tools_of_choice(self, index: int) -> LeasedTools:
        """The server's own tools of one of several answers: each has its own state."""
        return await self.hosted.again() if index else self.hosted


async def prepare_chat(
    request: ChatRequest, context: Context, client: str, places: Sequence[str] | None = None
) -> PreparedChat:
    """Check a request and convert it for the service. Raises ApiError for anything invalid except schemas.

    places: the path of each message in the client's request, if not messages[i].
    """
    if not request.messages:
        raise bad("messages", "messages is empty: want one at least")
    context.service.limits.check_text(
        sum(map(_length, request.messages)), "messages", MIN_MESSAGE_TOKENS * len(request.messages)
    )
    call_ids = _call_ids(request.messages)
    earlier = await recall_calls(context.recall, call_ids)
    with function_errors(request), input_errors():
        hosted = await leased_tools(context, *tools_of(request), call_ids)
        async with hosted.released_on_error():  # in a thread: a long history would block the event loop
            return await asyncio.to_thread(_prepare_chat, request, context.service, earlier, client, places, hosted)


def _prepare_chat(
    request: ChatRequest, service: Service, earlier: CallHistory, client: str, places: Sequence[str] | None,
    hosted: LeasedTools,
) -> PreparedChat:  # fmt: skip
    warnings: list[str] = list(hosted.fields.warnings)
    tools, choice = hosted.fields.tools, hosted.fields.tool_choice
    box = toolbox(tools, choice if tools else None)
    form = form_of(request.response_format, request, warnings)
    prefill = prefill_of(request, places, warnings)
    given = request.messages[:-1] if prefill else request.messages
    history = read_history(given, box, earlier, places=places)
    thinking = _thinking(request, warnings)
    options = TurnOptions(
        params=_params(request, service.model.stop_tokens, warnings),
        tool_choice=hosted.choice or box.choice,
        allowed=hosted.allowed(box.allowed),
        toolset=hosted.toolset,
        response_format=form.enforced,
        thinking_budget=thinking.budget,
        max_calls=MAX_CALLS if request.parallel_tool_calls is True and not request.functions else 1,
        prefill=prefill.text if prefill else None,
    )
    opening = hosted.declared(opening_of(service.settings.opening, request))
    turns = [*history.messages, *(prefill.reasoning if prefill else ())]
    spaces = (*box.spaces, *hosted.developer_namespaces)
    messages = conversation(thinking.effort, turns, spaces, form.shown, opening)
    warnings += [*not_honoured(request, echo=request.echo, best_of=request.best_of not in (None, 0, 1, request.n))]
    return PreparedChat(
        AnswerRequest(messages, options, stop_strings(request.stop), client),
        box,
        _choices(request.n),
        request.store is not False,
        hosted,
        (
            *warnings,
            *template_warnings(request),
            *history.warnings,
            *unmatched_warnings(history.unanswered, history.repeated),
        ),
        form.param,
        thinking.hidden,
        bool(request.functions),
    )


def _params(request: ChatRequest, stop_tokens: frozenset[int], warnings: list[str]) -> SamplingParams:
    newer, older = limit(request.max_completion_tokens), limit(request.max_tokens)
    field = "max_tokens" if newer is None else "max_completion_tokens"
    return sampling_params(
        request,
        stop_tokens,
        warnings,
        max_tokens=older if newer is None else newer,
        max_tokens_param=field,
        logprobs=_logprobs(request),
    )


def _thinking(request: ChatRequest, warnings: list[str]) -> Thinking:
    own = request.reasoning or ThinkingOptions()
    return thinking_of(
        request,
        warnings,
        efforts={"reasoning_effort": request.reasoning_effort, "reasoning.effort": own.effort},
        budgets={"reasoning.max_tokens": limit(own.max_tokens)},
        enabled=own.enabled,
        exclude=own.exclude,
    )


class Prefill(NamedTuple):
    """An answer to continue: the reasoning before it, and its text."""

    reasoning: list[Message]
    text: str


def prefill_of(request: ChatRequest, places: Sequence[str] | None, warnings: list[str]) -> Prefill | None:
    """The last message, if the request continues it. Raises ApiError if it is not an answer."""
    last = request.messages[-1]
    if not (request.continue_final_message or last.prefix):
        if request.add_generation_prompt is False:
            warnings.append("add_generation_prompt: without effect but with continue_final_message")
        return None
    at = places[-1] if places else f"messages[{len(request.messages) - 1}]"
    if last.role != "assistant" or last.calls:
        field = "prefix" if last.prefix else "continue_final_message"
        raise bad(at, f"{at} cannot be continued: {field} wants a last message of the assistant, without calls")
    text = text_of(last.content, f"{at}.content", warnings, refuses=False)
    return Prefill([assistant(last.thought, "analysis")] if last.thought else [], text)


def tools_of(request: ChatRequest) -> tuple[list[dict[str, Any]] | None, Any]:
    """The tools and the tool choice, also from OpenAI's older functions and function_call."""
    if not request.functions:
        return [*(request.tools or ()), *_search_tool(request)] or request.tools, request.tool_choice
    if request.tools:
        raise bad("functions", "give either tools or functions, not both")
    choice: Any = request.function_call
    if isinstance(choice, dict):
        choice = {"type": "function", "function": choice}
    return [{"type": "function", "function": each} for each in request.functions], choice


def _search_tool(request: ChatRequest) -> list[dict[str, Any]]:
    """OpenAI's field that turns the web search on, as a tool."""
    if request.web_search_options is None:
        return []
    return [{"type": "web_search", **request.web_search_options}]


@contextmanager
def function_errors(request: ChatRequest) -> Generator[None]:
    """Errors name the older fields if the request uses them."""
    try:
        yield
    except ApiError as error:
        if request.functions and error.param:
            error.param = NESTED.sub(r"functions[\1]", error.param.replace("tool_choice", "function_call"))
        raise


def opening_of(opening: System, request: Any) -> System:
    """The system message's first lines, with the request's changes: `ossia`, or the template's model_identity."""
    kwargs = getattr(request, "chat_template_kwargs", None) or {}
    if (identity := kwargs.get("model_identity")) is not None:
        if not isinstance(identity, str):
            raise bad("chat_template_kwargs.model_identity", "model_identity must be a string", "invalid_type")
        opening = lines(opening, identity, under="chat_template_kwargs.model_")
    own = request.ossia or OssiaFields()
    return lines(opening, own.identity, own.knowledge_cutoff, own.date, under="ossia.")


def unmatched_warnings(unanswered: Sequence[str], repeated: Sequence[str]) -> list[str]:
    """Warnings for calls without a result, and for further results of a call."""
    return [
        *(f"{at}: this call has no result" for at in unanswered),
        *(f"{at}: this call already has a result; both are shown" for at in repeated),
    ]


def _length(message: ChatMessage) -> int:
    """Characters of a message's content. Reasoning and calls are not counted: they may be dropped from the prompt."""
    if isinstance(message.content, list):
        return sum(len(part if isinstance(part, str) else part.text or "") for part in message.content)
    return len(message.content or "")


def _call_ids(messages: Sequence[ChatMessage]) -> list[str]:
    made = [call.id for message in messages for call in message.calls if call.id]
    answered = [message.tool_call_id for message in messages if message.tool_call_id]
    return list(dict.fromkeys([*made, *answered]))


def _choices(given: int | None) -> int:
    if given is not None and not 1 <= given <= MAX_CHOICES:
        raise bad("n", f"n is {given}: want 1 to {MAX_CHOICES}")
    return given or 1


def _logprobs(request: ChatRequest) -> int | None:
    if request.top_logprobs and not request.logprobs:
        raise bad("top_logprobs", "top_logprobs needs logprobs to be true")
    return (request.top_logprobs or 0) if request.logprobs else None
