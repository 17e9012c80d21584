"""The requests and answers of Chat Completions and of Responses, as asks and replies.

In: an `Ask` with its sampling; an answer's JSON. Out: a request's JSON; a `Reply`, or a BadReplyError.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from ossia.evals.core.benchmark import Ask, CallRequest, Finish, Reply, TokenCounts
from ossia.evals.core.solver import SamplingSettings
from ossia.harmony.messages import Effort, JsonObject

CHAT_FIELDS = ("role", "content", "reasoning", "reasoning_content", "tool_calls", "tool_call_id", "name")
HOSTED_ITEMS = {"web_search_call": "browser", "code_interpreter_call": "python", "shell_call": "container"}
TOOL_FIELDS: dict[str, JsonObject] = {"code_interpreter": {"container": {"type": "auto"}}}


class BadReplyError(ValueError):
    """An answer that is not of its API's form."""


def assistant_message(content: str, reasoning: str, calls: Sequence[CallRequest]) -> dict[str, Any]:
    """The message for the next ask, with its reasoning under both names that servers read."""
    message: dict[str, Any] = {"role": "assistant", "content": content or None}
    if reasoning:
        message |= {"reasoning": reasoning, "reasoning_content": reasoning}
    if calls:
        message["tool_calls"] = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            for call in calls
        ]
    return message


def _hosted(tools: Sequence[str]) -> list[JsonObject]:
    return [{"type": name, **TOOL_FIELDS.get(name, {})} for name in tools]


def chat_request(
    ask: Ask, model: str, effort: Effort, seed: int, sampling: SamplingSettings, hosted: Sequence[str] = ()
) -> JsonObject:
    """The body of a chat completion."""
    body: dict[str, Any] = {
        "model": model,
        "messages": [{name: each[name] for name in CHAT_FIELDS if name in each} for each in ask.messages],
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "seed": seed,
        "max_completion_tokens": _limit(ask, sampling),
        "reasoning_effort": effort,
    }
    if tools := [*ask.tools, *_hosted(hosted)]:
        body["tools"] = tools
    if ask.stop:
        body["stop"] = list(ask.stop)
    return body


def chat_reply(answer: Mapping[str, Any]) -> Reply:
    """The reply of a chat completion."""
    try:
        choice = answer["choices"][0]
        said: Mapping[str, Any] = choice["message"]
        calls = tuple(
            CallRequest(str(each["id"]), str(each["function"]["name"]), str(each["function"]["arguments"]))
            for each in said.get("tool_calls") or ()
        )
        reasoning = str(said.get("reasoning") or said.get("reasoning_content") or "")
        content = said.get("content")
        usage: Mapping[str, Any] = answer.get("usage") or {}
        message = assistant_message(content or "", reasoning, calls)
        if ran := said.get("executed_tools"):
            message["executed_tools"] = ran
        counts = TokenCounts(
            int(usage.get("prompt_tokens") or 0),
            int(usage.get("completion_tokens") or 0),
            int((usage.get("completion_tokens_details") or {}).get("reasoning_tokens") or 0),
        )
        finish = _finish(str(choice.get("finish_reason")), calls)
    except (KeyError, IndexError, TypeError, AttributeError, ValueError) as error:
        raise BadReplyError(f"not the form of a chat completion ({type(error).__name__}: {error})") from error
    return Reply(content if content and not calls else None, message, calls, reasoning, finish, counts)


def _finish(word: str, calls: Sequence[CallRequest]) -> Finish:
    if calls:
        return "tool_calls"
    return "length" if word in ("length", "max_tokens") else "stop"


def _limit(ask: Ask, sampling: SamplingSettings) -> int:
    return sampling.max_tokens if ask.max_tokens is None else min(ask.max_tokens, sampling.max_tokens)


def responses_request(
    ask: Ask, model: str, effort: Effort, seed: int, sampling: SamplingSettings, hosted: Sequence[str] = ()
) -> JsonObject:
    """The body of a response. Nothing is stored at the server: the items go back, with sealed reasoning."""
    body: dict[str, Any] = {
        "model": model,
        "input": [item for message in ask.messages for item in _items(message)],
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "seed": seed,
        "max_output_tokens": _limit(ask, sampling),
        "reasoning": {"effort": effort},
        "include": ["reasoning.encrypted_content"],
        "store": False,
    }
    if ask.stop:
        body["stop"] = list(ask.stop)
    if tools := [*map(_flat, ask.tools), *_hosted(hosted)]:
        body["tools"] = tools
    return body


def _flat(tool: Mapping[str, Any]) -> JsonObject:
    """A function tool of Chat Completions, as Responses has it."""
    return {"type": "function", **tool["function"]} if "function" in tool else dict(tool)


def _items(message: Mapping[str, Any]) -> list[JsonObject]:
    """A chat message as items: an answer of this API as it came, or what a benchmark wrote."""
    if given := message.get("items"):
        return list(given)
    if message["role"] == "tool":
        return [{"type": "function_call_output", "call_id": message["tool_call_id"], "output": message["content"]}]
    items: list[JsonObject] = []
    if message.get("content") is not None:
        items.append({"type": "message", "role": message["role"], "content": message["content"]})
    for call in message.get("tool_calls") or ():
        function = call["function"]
        items.append(
            {
                "type": "function_call",
                "call_id": call["id"],
                "name": function["name"],
                "arguments": function["arguments"],
            }
        )
    return items


def responses_reply(answer: Mapping[str, Any]) -> Reply:
    """The reply of a response. Its items are kept in the message, for the next ask."""
    try:
        items: list[Mapping[str, Any]] = list(answer["output"])
        texts, thoughts, ran = [], [], []
        calls: list[CallRequest] = []
        for item in items:
            match item["type"]:
                case "message":
                    texts.append(
                        "".join(str(part.get("text") or part.get("refusal") or "") for part in item["content"])
                    )
                case "reasoning":
                    parts = item.get("content") or item.get("summary") or ()
                    thoughts.append("\n".join(str(part["text"]) for part in parts))
                case "function_call":
                    calls.append(CallRequest(str(item["call_id"]), str(item["name"]), str(item["arguments"])))
                case str(kind) if kind in HOSTED_ITEMS:
                    ran.append(_ran(kind, item))
                case _:
                    pass
        usage: Mapping[str, Any] = answer.get("usage") or {}
        counts = TokenCounts(
            int(usage.get("input_tokens") or 0),
            int(usage.get("output_tokens") or 0),
            int((usage.get("output_tokens_details") or {}).get("reasoning_tokens") or 0),
        )
        status = str(answer.get("status"))
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise BadReplyError(f"not the form of a response ({type(error).__name__}: {error})") from error
    if status in ("failed", "cancelled"):
        raise BadReplyError(f"the response {status}: {str(answer.get('error'))[:500]}")
    reasoning = "\n".join(thought for thought in thoughts if thought)
    message = assistant_message("\n\n".join(texts), reasoning, calls)
    message["items"] = [dict(item) for item in items]
    if ran:
        message["executed_tools"] = ran
    finish = _finish("length" if status == "incomplete" else "stop", calls)
    return Reply("\n\n".join(texts) if texts and not calls else None, message, tuple(calls), reasoning, finish, counts)


def _ran(kind: str, item: Mapping[str, Any]) -> JsonObject:
    """A call of the endpoint's own tool, in the form of Ossia's Chat API."""
    given = item.get("code") or item.get("action") or ""
    return {"type": HOSTED_ITEMS[kind], "arguments": str(given), "output": str(item.get("outputs") or "")}
