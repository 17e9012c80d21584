"""The anthropic package (Python): text, streams, thinking, tools, structured output, counts, errors.

In: base URL, model, speaker, key, home. Out: lines of JSON (checks.py).
"""

from typing import Any

import anthropic
from anthropic import Anthropic, beta_tool
from checks import Place, run, says
from pydantic import BaseModel

SUM = "What is 12 + 30?"
WEATHER = "What is the weather in Paris?"
THINKS: Any = {"type": "enabled", "budget_tokens": 1024}


class Solution(BaseModel):
    answer: int


def client(place: Place, **options: Any) -> Anthropic:
    url = place.base_url.removesuffix("/v1")
    return Anthropic(base_url=url, timeout=60, **{"api_key": place.key, "max_retries": 0, **options})


def asked(place: Place, words: str = SUM, **more: Any) -> Any:
    return {"model": place.model, "max_tokens": 2000, "messages": [{"role": "user", "content": words}], **more}


def models(place: Place):
    found = list(client(place).models.list())
    assert place.model in [each.id for each in found]
    assert client(place).models.retrieve(place.model).display_name == place.model
    return anthropic.__version__


def text(place: Place):
    message = client(place).messages.create(**asked(place))
    says(place, message.content[-1].text, "42")
    assert message.stop_reason == "end_turn"
    return message.content[-1].text


def stream(place: Place):
    """A5, C4: the prompt is counted from the first event on; thinking is signed."""
    with client(place).messages.stream(**asked(place, thinking=THINKS)) as events:
        kinds = [(event.type, getattr(getattr(event, "delta", None), "type", None)) for event in events]
        message = events.get_final_message()
    assert ("content_block_delta", "signature_delta") in kinds
    thought, said = message.content
    assert (thought.type, said.type) == ("thinking", "text")
    assert thought.thinking
    assert thought.signature
    says(place, said.text, "42")


def counts(place: Place):
    """A5, C5: what is counted before is what is used, whole and streamed."""
    counted = client(place).messages.count_tokens(model=place.model, messages=asked(place)["messages"]).input_tokens
    whole = client(place).messages.create(**asked(place, max_tokens=16)).usage
    start = next(iter(client(place).messages.create(**asked(place, max_tokens=16, stream=True)))).message.usage
    for usage in (whole, start):
        parts = (usage.input_tokens, usage.cache_read_input_tokens, usage.cache_creation_input_tokens)
        assert sum(parts) == counted, (counted, usage)
    return counted


def structured(place: Place):
    """A4: output_config.format and its older name, whole and streamed."""
    parsed = client(place).messages.parse(**asked(place, output_format=Solution)).parsed_output
    assert isinstance(parsed, Solution)
    with client(place).messages.stream(**asked(place, output_format=Solution)) as events:
        streamed = events.get_final_message().parsed_output
    assert isinstance(streamed, Solution)
    older = {"type": "json_schema", "schema": {**Solution.model_json_schema(), "additionalProperties": False}}
    beta = client(place).beta.messages.create(
        **asked(place), extra_body={"output_format": older}, betas=["structured-outputs-2025-11-13"]
    )
    assert Solution.model_validate_json(beta.content[-1].text)
    return parsed.answer


def tools(place: Place):
    """C2: the SDK asks for a thread, is refused, and sends the whole conversation instead."""
    called: list[str] = []

    @beta_tool
    def get_weather(city: str) -> str:
        """Get the weather of a city.

        Args:
            city: The city.
        """
        called.append(city)
        return '{"sky":"clear"}'

    for streams in (False, True):
        runner = client(place).beta.messages.tool_runner(**asked(place, WEATHER), tools=[get_weather], stream=streams)
        last = [message.get_final_message() if streams else message for message in runner][-1]
        assert last.stop_reason == "end_turn", last
        assert not place.acted or "clear" in last.content[-1].text, last
        assert not place.acted or "(thinking kept)" in last.content[-1].text, last
    assert called == ["Paris", "Paris"] if place.acted else "Paris" in called, called
    return last.content[-1].text


def refused(place: Place, kind: type[anthropic.APIStatusError], wrong: Any) -> anthropic.APIStatusError:
    try:
        client(place).messages.create(**wrong)
    except kind as error:
        return error
    raise AssertionError(f"{kind.__name__} was expected")


def errors(place: Place):
    """C1, C3: errors of their own types, and final ones only once."""
    long = refused(place, anthropic.BadRequestError, asked(place, "word and word again " * 60_000))
    unknown = refused(place, anthropic.NotFoundError, asked(place) | {"model": "claude-opus"})
    hot = refused(place, anthropic.BadRequestError, asked(place, extra_body={"temperature": 9}))
    assert "prompt is too long: " in str(long), long
    for error in (long, unknown, hot):
        assert error.response.headers["x-should-retry"] == "false"
    sent: list[Any] = []
    stranger = client(place, api_key="a-wrong-key", max_retries=5)
    stranger._client.event_hooks["request"].append(sent.append)
    try:
        stranger.messages.create(**asked(place))
    except anthropic.AuthenticationError:
        assert len(sent) == 1, sent
    else:
        assert place.speaker == "open"


if __name__ == "__main__":
    run(
        {
            "models": models,
            "text": text,
            "stream, thinking": stream,
            "counts": counts,
            "structured output": structured,
            "tool_runner": tools,
            "errors": errors,
        }
    )
