"""litellm (Python), by its openai and its anthropic routes: text, streams, tools, structured output, errors.

In: base URL, model, speaker, key, home. Out: lines of JSON (checks.py). Its list of prices is the one in its package.
"""

import json
import os
from collections.abc import Callable
from typing import Any

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # before the import: else it fetches the list

import litellm
from checks import Place, run, says

SUM = "What is 12 + 30?"
ROUTES = ("openai", "anthropic")
FORM = {
    "type": "object",
    "properties": {"answer": {"type": "integer"}},
    "required": ["answer"],
    "additionalProperties": False,
}
TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}


def ask(place: Place, route: str, words: str = SUM, **more: Any) -> Any:
    url = place.base_url if route == "openai" else place.base_url.removesuffix("/v1")
    asked = {"messages": [{"role": "user", "content": words}], "max_tokens": 2000, "timeout": 60, **more}
    return litellm.completion(model=f"{route}/{place.model}", api_base=url, **{"api_key": place.key, **asked})


def text(place: Place, route: str):
    answer = ask(place, route)
    says(place, answer.choices[0].message.content, "42")
    assert answer.usage.prompt_tokens > 20, answer.usage
    return answer.usage.prompt_tokens


def stream(place: Place, route: str):
    pieces = list(ask(place, route, stream=True, stream_options={"include_usage": True}))
    said = "".join(piece.choices[0].delta.content or "" for piece in pieces if piece.choices)
    says(place, said, "42")
    usage = pieces[-1].usage
    assert usage.prompt_tokens == ask(place, route).usage.prompt_tokens, usage


def tools(place: Place, route: str):
    words = "What is the weather in Paris?"
    call = ask(place, route, words, tools=[TOOL]).choices[0].message
    assert json.loads(call.tool_calls[0].function.arguments) == {"city": "Paris"}, call
    history = [{"role": "user", "content": words}, call.model_dump()]
    history.append({"role": "tool", "tool_call_id": call.tool_calls[0].id, "content": '{"sky":"clear"}'})
    said = ask(place, route, tools=[TOOL], messages=history).choices[0].message.content
    assert said
    assert not place.acted or "clear" in said, said
    assert not place.acted or "(thinking kept)" in said, said


def structured(place: Place, route: str):
    form = {"type": "json_schema", "json_schema": {"name": "solution", "schema": FORM, "strict": True}}
    said = ask(place, route, response_format=form, max_tokens=2000).choices[0].message.content
    assert isinstance(json.loads(said)["answer"], int), said


def errors(place: Place, route: str):
    """C1: the error by which agents shorten a conversation."""
    expected: list[tuple[type[Exception], Callable[[], Any]]] = [
        (litellm.ContextWindowExceededError, lambda: ask(place, route, "word and word again " * 60_000)),
        (litellm.BadRequestError, lambda: ask(place, route, temperature=9)),
    ]
    if place.speaker != "open":
        expected.append((litellm.AuthenticationError, lambda: ask(place, route, api_key="a-wrong-key")))
    for kind, wrong in expected:
        try:
            wrong()
        except kind:
            continue
        raise AssertionError(f"{kind.__name__} was expected")


if __name__ == "__main__":
    every = {"text": text, "stream": stream, "tools": tools, "structured": structured, "errors": errors}
    run(
        {
            f"{route} {name}": (lambda place, check=check, route=route: check(place, route))
            for route in ROUTES
            for name, check in every.items()
        }
    )
