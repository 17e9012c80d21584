"""openai-agents (Python): its tool loop over both APIs, streamed and not, structured output, reasoning between calls.

In: base URL, model, speaker, key, home. Out: lines of JSON (checks.py).
"""

import asyncio
from typing import Any

from agents import (
    Agent,
    AsyncOpenAI,
    ModelSettings,
    OpenAIChatCompletionsModel,
    OpenAIResponsesModel,
    Runner,
    function_tool,
    set_tracing_disabled,
)
from checks import Place, run, says
from pydantic import BaseModel

set_tracing_disabled(True)


class Solution(BaseModel):
    answer: int


@function_tool
def get_weather(city: str) -> str:
    """Get the weather of a city."""
    return '{"sky":"clear"}' if city == "Paris" else "unknown"


def agent(place: Place, kind: Any, **more: Any) -> Agent[Any]:
    client = AsyncOpenAI(base_url=place.base_url, api_key=place.key, max_retries=0, timeout=60)
    return Agent(
        name="a",
        model=kind(model=place.model, openai_client=client),
        model_settings=ModelSettings(temperature=0),
        **more,
    )


def text(place: Place, kind: Any):
    found = asyncio.run(Runner.run(agent(place, kind), "What is 12 + 30?")).final_output
    says(place, found, "42")
    return found


def stream(place: Place, kind: Any):
    async def go():
        result = Runner.run_streamed(agent(place, kind), "What is 12 + 30?")
        kinds = {e.data.type async for e in result.stream_events() if e.type == "raw_response_event"}
        return result.final_output, kinds

    found, kinds = asyncio.run(go())
    says(place, found, "42")
    assert "response.completed" in kinds
    assert "response.output_text.delta" in kinds
    return sorted(kinds)


def tools(place: Place, kind: Any):
    result = asyncio.run(Runner.run(agent(place, kind, tools=[get_weather]), "What is the weather in Paris?"))
    types = [item.type for item in result.new_items]
    assert types.count("tool_call_item") == types.count("tool_call_output_item") == 1, types
    says(place, result.final_output, "clear")
    assert not place.acted or "(thinking kept)" in result.final_output, result.final_output
    return result.final_output


def tools_streamed(place: Place, kind: Any):
    async def go():
        result = Runner.run_streamed(agent(place, kind, tools=[get_weather]), "What is the weather in Paris?")
        async for _ in result.stream_events():
            pass
        return result.final_output

    found = asyncio.run(go())
    says(place, found, "clear")
    assert not place.acted or "(thinking kept)" in found, found
    return found


def structured(place: Place, kind: Any):
    found = asyncio.run(Runner.run(agent(place, kind, output_type=Solution), "What is 12 + 30?")).final_output
    assert isinstance(found, Solution)
    return found


if __name__ == "__main__":
    both = {"": OpenAIResponsesModel, "chat ": OpenAIChatCompletionsModel}
    every = {
        "text": text,
        "stream": stream,
        "tools": tools,
        "tools, streamed": tools_streamed,
        "structured": structured,
    }
    run(
        {
            f"{api}{name}": (lambda place, check=check, kind=kind: check(place, kind))
            for api, kind in both.items()
            for name, check in every.items()
        }
    )
