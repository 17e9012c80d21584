"""A chat request to an `Ask`: its messages as harmony's, its tools and form, and how to sample.

In: wire types, and the memory of earlier calls. Out: an `Ask`, or an `ApiError` that names the field.
It does not know how an answer is made or told.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

from ossia.chat import Answering
from ossia.harmony.client_tools import Toolbox, toolbox
from ossia.harmony.openai_chat import ChatMessage, effort_of, read_history, response_format
from ossia.server.ask import Ask, conversation, limit, sampling, stops
from ossia.server.chat_wire import ChatRequest, Thinking
from ossia.server.context import Kept, Recall, recalled
from ossia.server.errors import bad, refused_input
from ossia.server.service import LEAST_MESSAGE, Service

MOST_CHOICES = 16


class ChatAsk(NamedTuple):
    """An ask, the tools by which to read its calls, and how many answers are wanted. stores: on a disk, too.

    warnings: what of the messages was left out.
    """

    ask: Ask
    box: Toolbox
    choices: int
    stores: bool
    warnings: tuple[str, ...] = ()

    def nth(self, index: int) -> Ask:
        """The ask for one of several answers: each has a seed of its own."""
        params = self.ask.how.params
        if not index or params.seed is None:
            return self.ask
        how = replace(self.ask.how, params=replace(params, seed=params.seed + 1_000_003 * index))
        return replace(self.ask, how=how)


async def chat_ask(
    request: ChatRequest,
    service: Service,
    recall: Recall,
    client: str,
    places: Sequence[str] | None = None,
) -> ChatAsk:
    """Read a request. Everything that it can be refused for, but its schemas, is found here.

    places: where each message stands in the client's request, if not at messages[i].
    """
    if not request.messages:
        raise bad("messages", "messages is empty: want one at least")
    service.check_text(sum(map(_length, request.messages)), "messages", LEAST_MESSAGE * len(request.messages))
    earlier = await recalled(recall, _call_ids(request.messages))
    with refused_input():  # a long history must not hold up the loop
        return await asyncio.to_thread(_chat_ask, request, service.model.stop_tokens, earlier, client, places)


def _chat_ask(
    request: ChatRequest, stop_tokens: frozenset[int], earlier: Kept, client: str, places: Sequence[str] | None
) -> ChatAsk:
    box = toolbox(request.tools, request.tool_choice if request.tools else None)
    form = response_format(request.response_format)
    history = read_history(request.messages, box, earlier, places=places)
    newer, older = limit(request.max_completion_tokens), limit(request.max_tokens)
    field = "max_tokens" if newer is None else "max_completion_tokens"
    params = sampling(
        stop_tokens,
        temperature=request.temperature,
        top_p=request.top_p,
        top_k=request.top_k,
        min_p=request.min_p,
        seed=request.seed,
        max_tokens=older if newer is None else newer,
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
    budget = limit(thinks.max_tokens)
    if budget is not None and budget < 0:
        raise bad("reasoning.max_tokens", "reasoning.max_tokens is negative")
    how = Answering(
        params=params,
        tool_choice=box.choice,
        allowed=box.allowed,
        response_format=form.schema if form else None,
        thinking_budget=budget,
    )
    effort = effort_of(request.reasoning_effort) or effort_of(thinks.effort, "reasoning.effort")
    messages = conversation(effort, history.messages, box.spaces, (form,) if form else ())
    return ChatAsk(
        Ask(messages, how, stops(request.stop), client),
        box,
        _choices(request.n),
        request.store is not False,
        (*history.warnings, *unmatched(history.unanswered, history.repeated)),
    )


def unmatched(unanswered: Sequence[str], repeated: Sequence[str]) -> list[str]:
    """Warnings for calls without a result, and for further results of a call."""
    return [
        *(f"{at}: this call has no result" for at in unanswered),
        *(f"{at}: this call already has a result; both are shown" for at in repeated),
    ]


def _length(message: ChatMessage) -> int:
    """Characters of a message's content, without what may be left out of the prompt."""
    if isinstance(message.content, list):
        return sum(len(part if isinstance(part, str) else part.text or "") for part in message.content)
    return len(message.content or "")


def _call_ids(messages: Sequence[ChatMessage]) -> list[str]:
    made = [call.id for message in messages for call in message.calls if call.id]
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
