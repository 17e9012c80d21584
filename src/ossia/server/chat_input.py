"""A chat request to an `Ask`: its messages as harmony's, its tools and form, and how to sample.

In: wire types, and the memory of earlier calls. Out: an `Ask`, or an `ApiError` that names the field.
It does not know how an answer is made or told.
"""

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

from ossia.chat import Answering
from ossia.harmony.client_tools import Toolbox, toolbox
from ossia.harmony.messages import Message, assistant, developer, tool, user
from ossia.harmony.openai_chat import ChatMessage, Part, ToolCall, effort_of, response_format
from ossia.server.ask import Ask, conversation, sampling, stops
from ossia.server.chat_wire import ChatRequest, Thinking
from ossia.server.context import Kept, Recall, recalled
from ossia.server.errors import bad, refused_input
from ossia.server.wire import encode, same_json

MOST_CHOICES = 16
TEXT = ("text", "input_text", "output_text")


class ChatAsk(NamedTuple):
    """An ask, the tools by which to read its calls, and how many answers are wanted. stores: on a disk, too."""

    ask: Ask
    box: Toolbox
    choices: int
    stores: bool

    def nth(self, index: int) -> Ask:
        """The ask for one of several answers: each has a seed of its own."""
        params = self.ask.how.params
        if not index or params.seed is None:
            return self.ask
        how = replace(self.ask.how, params=replace(params, seed=params.seed + 1_000_003 * index))
        return replace(self.ask, how=how)


async def chat_ask(request: ChatRequest, stop_tokens: frozenset[int], recall: Recall, client: str) -> ChatAsk:
    """Read a request. Everything that it can be refused for, but its length and its schemas, is found here."""
    with refused_input():
        return await _chat_ask(request, stop_tokens, recall, client)


async def _chat_ask(request: ChatRequest, stop_tokens: frozenset[int], recall: Recall, client: str) -> ChatAsk:
    if not request.messages:
        raise bad("messages", "messages is empty: want one at least")
    box = toolbox(request.tools, request.tool_choice if request.tools else None)
    form = response_format(request.response_format)
    said = _History(request.messages, box, await recalled(recall, _call_ids(request.messages))).said()
    longest = request.max_completion_tokens if request.max_completion_tokens is not None else request.max_tokens
    field = "max_completion_tokens" if request.max_completion_tokens is not None else "max_tokens"
    params = sampling(
        stop_tokens,
        temperature=request.temperature,
        top_p=request.top_p,
        top_k=request.top_k,
        min_p=request.min_p,
        seed=request.seed,
        max_tokens=longest,
        max_tokens_param=field,
        logit_bias=request.logit_bias,
        logprobs=_logprobs(request),
        repetition_penalty=request.repetition_penalty,
        frequency_penalty=request.frequency_penalty,
        presence_penalty=request.presence_penalty,
        min_tokens=request.min_tokens,
        stop_token_ids=request.stop_token_ids,
    )
    if request.ignore_eos:  # the end of the turn is not sampled where anything else may come
        params = replace(params, min_tokens=2**31)
    thinks = request.reasoning or Thinking()
    if thinks.max_tokens is not None and thinks.max_tokens < 0:
        raise bad("reasoning.max_tokens", "reasoning.max_tokens is negative")
    how = Answering(
        params=params,
        tool_choice=box.choice,
        allowed=box.allowed,
        response_format=form.schema if form else None,
        thinking_budget=thinks.max_tokens,
    )
    effort = effort_of(request.reasoning_effort) or effort_of(thinks.effort, "reasoning.effort")
    messages = conversation(effort, said, box.spaces, (form,) if form else ())
    return ChatAsk(
        Ask(messages, how, stops(request.stop), client), box, _choices(request.n), request.store is not False
    )


def _call_ids(messages: Sequence[ChatMessage]) -> list[str]:
    made = [call.id for message in messages for call in message.tool_calls or ()]
    answered = [message.tool_call_id for message in messages if message.tool_call_id]
    return list(dict.fromkeys([*made, *answered]))


def _choices(given: int | None) -> int:
    if given is not None and not 1 <= given <= MOST_CHOICES:
        raise bad("n", f"n is {given}: want 1 to {MOST_CHOICES}")
    return given or 1


def _logprobs(request: ChatRequest) -> int | None:
    if request.top_logprobs and not request.logprobs:
        raise bad("top_logprobs", "top_logprobs needs logprobs to be true")
    return (request.top_logprobs or 0) if request.logprobs else None


class _History:
    """The messages of a request, one after the other."""

    def __init__(self, messages: Sequence[ChatMessage], box: Toolbox, kept: Kept) -> None:
        self._messages, self._box, self._kept = messages, box, kept
        self._called: dict[str, str] = {}  # recipients, by the call's id
        # thinking that led to a final answer is not shown again
        finals = (i for i, m in enumerate(messages) if m.role == "assistant" and not m.tool_calls)
        self._last_final = max(finals, default=-1)

    def said(self) -> list[Message]:
        said: list[Message] = []
        for number, message in enumerate(self._messages):
            at = f"messages[{number}]"
            match message.role:
                case "system" | "developer":
                    said.append(developer(_text(message, at)))
                case "user":
                    said.append(user(_text(message, at)))
                case "assistant":
                    said += self._assistant(message, at, thinks=number > self._last_final)
                case "tool":
                    said.append(self._tool(message, at))
        return said

    def _assistant(self, message: ChatMessage, at: str, thinks: bool) -> list[Message]:
        text, reasoning = _text(message, at), message.reasoning or message.reasoning_content or ""
        said: list[Message] = []
        for number, call in enumerate(message.tool_calls or ()):
            made = self._call(call, f"{at}.tool_calls[{number}]")
            self._called[call.id] = str(made.recipient)
            said += self._restored(self._kept.get(call.id, ()), made, reasoning) or [made]
        thoughts = [each for each in said if each.channel == "analysis" and not each.recipient]
        if reasoning and not thoughts:
            said.insert(0, assistant(reasoning, "analysis"))
        preamble = any(each.channel == "commentary" and not each.recipient for each in said)
        if message.tool_calls and text.strip() and not preamble:
            said.insert(-len(message.tool_calls), assistant(text, "commentary"))
        elif not message.tool_calls:
            said.append(assistant(text))
        return said if thinks else [each for each in said if each.channel != "analysis" or each.recipient]

    def _restored(self, kept: Sequence[Message], made: Message, reasoning: str) -> list[Message]:
        """What the model said up to this call, as it said it, unless the client has changed it."""
        if not kept or (reasoning and reasoning != thinking(kept)):
            return []
        same = kept[-1].recipient == made.recipient and same_json(kept[-1].text, made.text)
        return [*kept[:-1], kept[-1] if same else made]

    def _call(self, call: ToolCall, at: str) -> Message:
        if call.custom:
            name, text = call.custom.name, json.dumps({"input": call.custom.input}, ensure_ascii=False)
        elif call.function:
            given = call.function.arguments
            name, text = call.function.name, given if isinstance(given, str) else encode(given).decode()
        else:
            raise bad(f"{at}.function", f"{at} has no function", "missing_required_parameter")
        return assistant(text, "commentary", self._box.recipient(name), "<|constrain|>json")

    def _tool(self, message: ChatMessage, at: str) -> Message:
        call = message.tool_call_id
        if call is None:
            raise bad(f"{at}.tool_call_id", f"{at} has no tool_call_id", "missing_required_parameter")
        recipient = self._called.get(call)
        if recipient is None:
            kept = self._kept.get(call)
            recipient = kept[-1].recipient if kept else None
        if recipient is None:
            raise bad(f"{at}.tool_call_id", f"{at} answers {call[:80]!r}, which no message before it calls")
        return tool(recipient, _text(message, at))


def thinking(messages: Sequence[Message]) -> str:
    """The reasoning of these messages, as a client is given it."""
    return "\n".join(each.text for each in messages if each.channel == "analysis" and not each.recipient)


def _text(message: ChatMessage, at: str) -> str:
    """The text of a message's content; a model that reads text alone is given nothing else."""
    if not isinstance(message.content, list):
        return message.content or ""
    return "".join(_part(part, f"{at}.content[{number}]") for number, part in enumerate(message.content))


def _part(part: Part, at: str) -> str:
    if part.type in TEXT and part.text is not None:
        return part.text
    if part.type == "refusal":
        return part.refusal or ""
    if part.type in TEXT:
        raise bad(f"{at}.text", f"{at} has no text", "missing_required_parameter")
    message = f"{at} is of type {part.type[:40]!r}: this model reads text only"
    raise bad(at, message, "unsupported_content")
