"""Built-in tools run by the service: results join the answer, broken tools are errors, leavers end the call."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest

from ossia.chat import Delta, Done, ToolProgressed, ToolResult, ToolStarted, TurnOptions
from ossia.harmony.messages import System, system, user
from ossia.server.core.request import AnswerRequest
from ossia.server.core.service import Service
from ossia.server.errors import ApiError
from ossia.tools.session import ToolUnavailableError
from ossia.tools.toolset import ToolSet
from tests.support.engine import ScriptedEngine, scripted_model
from tests.support.sessions import FakeSession, fake_python

CALL = "<|channel|>analysis to=python code<|message|>print(1)<|call|>"
FINAL = "<|channel|>final<|message|>{0}<|return|>"


def with_tools(
    session: FakeSession, turns: list[str], work: Callable[[Service, AnswerRequest], Awaitable[None]], **settings: Any
) -> ScriptedEngine:
    script = ScriptedEngine(turns, obeys=True)

    async def run() -> None:
        model = scripted_model(engine=script)
        service = Service(model, make_engine=lambda: script)
        service.start()
        toolset = ToolSet([session])
        await toolset.open()
        how = TurnOptions(toolset=toolset, **settings)
        how = replace(how, params=replace(how.params, stop_tokens=model.stop_tokens))
        try:
            await work(service, AnswerRequest((system(System(tools=toolset.system_namespaces)), user("go")), how))
        finally:
            await toolset.close()
            await service.close()

    asyncio.run(asyncio.wait_for(run(), 60))
    return script


def test_a_tool_is_run_on_the_event_loop_with_its_progress():
    session = fake_python(progress=("1\n",))

    async def work(service: Service, request: AnswerRequest) -> None:
        events = [event async for event in service.answer(request)]
        kinds = [type(event) for event in events if isinstance(event, ToolStarted | ToolProgressed | ToolResult | Done)]
        assert kinds == [ToolStarted, ToolProgressed, ToolResult, Done]
        assert "".join(e.text for e in events if isinstance(e, Delta) and e.channel == "final") == "ok"
        assert session.loops == [asyncio.get_running_loop()]

    script = with_tools(session, [CALL, FINAL.format("ok")], work)
    assert ": print(1)<|end|>" in script.prompts[1]


def test_a_broken_tool_is_an_error_of_the_server():
    session = fake_python(answer=lambda *_: ToolUnavailableError("the sandbox failed"))

    async def work(service: Service, request: AnswerRequest) -> None:
        with pytest.raises(ApiError, match="the sandbox failed") as caught:
            [event async for event in service.answer(request)]
        assert (caught.value.status, caught.value.code) == (503, "tool_unavailable")

    script = with_tools(session, [CALL, FINAL.format("ok")], work)
    assert len(script.prompts) == 1


def test_closing_the_answer_ends_its_call():
    session = fake_python(seconds=600.0, progress=("working",))

    async def work(service: Service, request: AnswerRequest) -> None:
        events: AsyncGenerator[Any, None] = service.answer(request)
        async for event in events:
            if isinstance(event, ToolProgressed):
                break
        await events.aclose()
        assert session.events == ["open", "run", "cancelled"]

    with_tools(session, [CALL, FINAL.format("ok")], work)


def test_an_answer_that_fills_the_context_with_results_ends_as_length():
    session = fake_python(answer=lambda *_: "x" * 100_000)

    async def work(service: Service, request: AnswerRequest) -> None:
        *_, done = [event async for event in service.answer(request)]
        assert isinstance(done, Done)
        assert done.finish == "length"

    many = "<|channel|>analysis<|message|>" + "thinking " * 150 + "<|end|><|start|>assistant" + CALL
    with_tools(session, [many] * 10, work)
