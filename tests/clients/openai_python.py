"""The openai package (Python): both APIs, streamed and not, tools, structured output, what a client may do beside.

In: base URL, model, speaker, key, home. Out: lines of JSON (checks.py).
"""

import json
from typing import Any

import openai
from checks import Place, run, says
from openai import OpenAI
from pydantic import BaseModel

SUM = "What is 12 + 30?"
WEATHER = "What is the weather in Paris?"
PARAMETERS = {
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
    "additionalProperties": False,
}
TOOL: Any = {
    "type": "function",
    "name": "get_weather",
    "description": "Get the weather of a city.",
    "parameters": PARAMETERS,
    "strict": True,
}
CHAT_TOOL: Any = {"type": "function", "function": {k: v for k, v in TOOL.items() if k != "type"}}
SKY = '{"sky":"clear"}'


class Solution(BaseModel):
    answer: int


def client(place: Place) -> OpenAI:
    return OpenAI(base_url=place.base_url, api_key=place.key, max_retries=0, timeout=60)


def models(place: Place):
    c = client(place)
    assert place.model in [each.id for each in c.models.list()]
    assert c.models.retrieve(place.model).id == place.model
    return openai.__version__


def text(place: Place):
    r = client(place).responses.create(model=place.model, input=SUM, temperature=0)
    says(place, r.output_text, "42")
    assert [item.type for item in r.output] == ["reasoning", "message"], r.output
    assert r.status == "completed"
    assert r.usage is not None
    assert r.usage.total_tokens == r.usage.input_tokens + r.usage.output_tokens > 0
    assert 0 < r.usage.output_tokens_details.reasoning_tokens < r.usage.output_tokens
    return r.output_text


def stream(place: Place):
    with client(place).responses.stream(model=place.model, input=SUM, temperature=0) as s:
        events = list(s)
        whole = s.get_final_response()
    spoken = "".join(e.delta for e in events if e.type == "response.output_text.delta")
    thought = "".join(e.delta for e in events if e.type == "response.reasoning_text.delta")
    assert spoken == whole.output_text
    says(place, spoken, "42")
    assert not place.acted or thought
    assert thought == "".join(part.text for item in whole.output if item.type == "reasoning" for part in item.content)
    assert [e.sequence_number for e in events if hasattr(e, "sequence_number")] == list(range(len(events)))
    return f"{len(events)} events"


def tools(place: Place, **more: Any):
    c = client(place)
    said: list[Any] = [{"role": "user", "content": WEATHER}]
    first = c.responses.create(model=place.model, input=said, tools=[TOOL], temperature=0, **more)
    (call,) = [item for item in first.output if item.type == "function_call"]
    assert call.name == "get_weather"
    assert json.loads(call.arguments) == {"city": "Paris"}
    said += [*first.output, {"type": "function_call_output", "call_id": call.call_id, "output": SKY}]
    second = c.responses.create(model=place.model, input=said, tools=[TOOL], temperature=0, **more)
    says(place, second.output_text, "clear")
    return remembered(place, second.output_text)


def remembered(place: Place, said: str) -> str:
    """The actor says whether the thinking before the call came back to it."""
    assert not place.acted or "(thinking kept)" in said, said
    return said


def tools_sealed(place: Place):
    return tools(place, store=False, include=["reasoning.encrypted_content"])


def only_sealed(place: Place):
    """A client that sends back nothing of the thinking but its seal."""
    c = client(place)
    more: Any = {"tools": [TOOL], "temperature": 0, "store": False, "include": ["reasoning.encrypted_content"]}
    first = c.responses.create(model=place.model, input=WEATHER, **more)
    items: list[Any] = [item.model_dump(exclude_none=True) for item in first.output]
    for item in items:
        if item["type"] == "reasoning":
            assert item["encrypted_content"]
            item.update(content=[])
            del item["content"]
    call = items[-1]
    said = [
        {"role": "user", "content": WEATHER},
        *items,
        {"type": "function_call_output", "call_id": call["call_id"], "output": SKY},
    ]
    return remembered(place, c.responses.create(model=place.model, input=said, **more).output_text)


def previous(place: Place):
    c = client(place)
    first = c.responses.create(model=place.model, input=WEATHER, tools=[TOOL], temperature=0)
    (call,) = [item for item in first.output if item.type == "function_call"]
    answer: Any = {"type": "function_call_output", "call_id": call.call_id, "output": SKY}
    second = c.responses.create(
        model=place.model, input=[answer], previous_response_id=first.id, tools=[TOOL], temperature=0
    )
    return remembered(place, second.output_text)


def stored(place: Place):
    c = client(place)
    made = c.responses.create(model=place.model, input=SUM, temperature=0)
    again = c.responses.retrieve(made.id)
    assert again.output_text == made.output_text
    assert [item.type for item in c.responses.input_items.list(made.id)] == ["message"]
    c.responses.delete(made.id)
    try:
        c.responses.retrieve(made.id)
    except openai.NotFoundError as error:
        return str(error.code)
    raise AssertionError("it was deleted, and is still there")


def counted(place: Place):
    c = client(place)
    count = c.responses.input_tokens.count(model=place.model, input=SUM).input_tokens
    used = c.responses.create(model=place.model, input=SUM, temperature=0).usage
    assert used is not None
    assert count == used.input_tokens
    return count


def parsed(place: Place):
    r = client(place).responses.parse(model=place.model, input=SUM, text_format=Solution, temperature=0)
    assert isinstance(r.output_parsed, Solution)
    assert not place.acted or r.output_parsed.answer == 42
    return r.output_parsed


def required(place: Place):
    r = client(place).responses.create(
        model=place.model, input="Paris", tools=[TOOL], tool_choice="required", temperature=0
    )
    assert [item.name for item in r.output if item.type == "function_call"] == ["get_weather"]


def chat_text(place: Place):
    r = client(place).chat.completions.create(
        model=place.model, messages=[{"role": "user", "content": SUM}], temperature=0
    )
    message: Any = r.choices[0].message
    says(place, message.content, "42")
    assert message.reasoning
    assert message.reasoning == message.reasoning_content
    assert r.choices[0].finish_reason == "stop"
    return message.content


def chat_stream(place: Place):
    options: Any = {"stream_options": {"include_usage": True}}
    with client(place).chat.completions.stream(
        model=place.model, messages=[{"role": "user", "content": SUM}], temperature=0, **options
    ) as s:
        for _ in s:
            pass
        whole = s.get_final_completion()
    says(place, whole.choices[0].message.content, "42")
    assert whole.usage is not None
    return f"{whole.usage.total_tokens} tokens"


def chat_tools(place: Place, keep: bool = True):
    c = client(place)
    said: list[Any] = [{"role": "user", "content": WEATHER}]
    first: Any = c.chat.completions.create(model=place.model, messages=said, tools=[CHAT_TOOL], temperature=0).choices[
        0
    ]
    assert first.finish_reason == "tool_calls"
    (call,) = first.message.tool_calls
    assert json.loads(call.function.arguments) == {"city": "Paris"}
    mine = {"role": "assistant", "content": None, "tool_calls": [call.model_dump()]}
    if keep:
        mine["reasoning"] = first.message.reasoning
    said += [mine, {"role": "tool", "tool_call_id": call.id, "content": SKY}]
    second = (
        c.chat.completions.create(model=place.model, messages=said, tools=[CHAT_TOOL], temperature=0)
        .choices[0]
        .message.content
    )
    says(place, second, "clear")
    return remembered(place, second or "")


def chat_tools_forgotten(place: Place):
    """A client that drops the thinking between calls: the server still has it."""
    return chat_tools(place, keep=False)


def chat_tools_stream(place: Place):
    with client(place).chat.completions.stream(
        model=place.model, messages=[{"role": "user", "content": WEATHER}], tools=[CHAT_TOOL], temperature=0
    ) as s:
        events = list(s)
    done: Any = [e for e in events if e.type == "tool_calls.function.arguments.done"]
    assert [(e.name, e.parsed_arguments or json.loads(e.arguments)) for e in done] == [
        ("get_weather", {"city": "Paris"})
    ]


def chat_parsed(place: Place):
    r = client(place).chat.completions.parse(
        model=place.model, messages=[{"role": "user", "content": SUM}], response_format=Solution, temperature=0
    )
    assert isinstance(r.choices[0].message.parsed, Solution)
    return r.choices[0].message.parsed


def errors(place: Place):
    try:
        client(place).responses.create(model=place.model, input=SUM, temperature=7)
    except openai.BadRequestError as error:
        refused = error
    else:
        raise AssertionError("a temperature of 7 was taken")
    assert refused.param == "temperature", refused.body
    return refused.body


if __name__ == "__main__":
    run({
        "models": models, "text": text, "stream": stream, "tools": tools, "tools, reasoning sealed": tools_sealed,
        "tools, reasoning sealed alone": only_sealed, "tools, previous_response_id": previous, "stored": stored,
        "input tokens": counted, "structured": parsed, "tool required": required, "chat text": chat_text,
        "chat stream": chat_stream, "chat tools": chat_tools, "chat tools, reasoning dropped": chat_tools_forgotten,
        "chat tools, streamed": chat_tools_stream, "chat structured": chat_parsed, "errors": errors,
    })  # fmt: skip
