"""A model in this process and the same model behind its own server give the same replies."""

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice

import pytest

from ossia.evals.core.benchmark import Ask, Reply
from ossia.evals.core.solver import SamplingSettings, Solver, TryKey
from ossia.evals.solvers.endpoint import Api, Endpoint, EndpointSettings
from ossia.evals.solvers.in_process import InProcess
from ossia.harmony.messages import Developer, Effort, JsonObject
from ossia.loading import load
from ossia.mini.tasks.catalogue import TASKS, tasks_named
from ossia.task import EFFORTS, Example
from tests.support.live import live

SAMPLING = SamplingSettings(max_tokens=400)


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with live(load()) as url:
        yield url


def questions(count: int) -> list[tuple[TryKey, Ask]]:
    """Questions of ossia-mini's tasks as chat messages, at every effort."""
    found: list[tuple[TryKey, Ask]] = []
    streams = [task.examples("same") for task in TASKS]
    while len(found) < count:
        number = len(found)
        example = next(streams[number % len(streams)])
        effort: Effort = EFFORTS[number % 3]
        found.append((TryKey("same", str(number), 0, effort), Ask([{"role": "user", "content": example.question}])))
    return found


def answers(solver: Solver, asks: list[tuple[TryKey, Ask]], sampling: SamplingSettings = SAMPLING) -> list[Reply]:
    async def run() -> list[Reply]:
        try:
            return await asyncio.gather(*(solver.model(key, 7, sampling)(ask) for key, ask in asks))
        finally:
            await solver.close()

    return asyncio.run(run())


def compared(reply: Reply) -> Reply:
    """Without what is random or of one API alone: the ids of calls, and the items of a response."""
    calls = tuple(call._replace(id="") for call in reply.calls)
    return replace(reply, calls=calls, message={}, flaws=())


def equal_rows(address: str, api: Api, count: int) -> None:
    asks = questions(count)
    here = answers(InProcess(load()), asks)
    there = answers(Endpoint(EndpointSettings(address, "ossia-mini", api=api)), asks)
    assert not [reply.error for reply in here + there if reply.error]
    assert [compared(reply) for reply in here] == [compared(reply) for reply in there]
    assert len({reply.text for reply in here}) > count // 4  # many different answers
    assert sum(reply.usage.reasoning for reply in here) > 0


@pytest.mark.parametrize("api", ["chat", "responses"])
def test_endpoint_and_engine_give_the_same_replies(address: str, api: Api):
    equal_rows(address, api, 24)


@pytest.mark.slow
@pytest.mark.parametrize("api", ["chat", "responses"])
def test_endpoint_and_engine_give_the_same_200_replies(address: str, api: Api):
    equal_rows(address, api, 200)


def function_tools(example: Example) -> list[JsonObject]:
    """The functions that an example declares, as Chat Completions has them."""
    contents = [part for message in example.messages for part in message.content if isinstance(part, Developer)]
    return [
        {
            "type": "function",
            "function": {"name": tool.name, "description": tool.description, "parameters": tool.parameters},
        }
        for part in contents
        for space in part.tools
        for tool in space.tools
    ]


async def with_a_call(solver: Solver, key: TryKey, example: Example) -> list[Reply]:
    """Two asks: with the result of the first one's call, and the reasoning before it, in the second."""
    model, tools = solver.model(key, 3, SAMPLING), function_tools(example)
    messages: list[JsonObject] = [{"role": "user", "content": example.question}]
    first = await model(Ask(messages, tools))
    messages += [first.message]
    messages += [{"role": "tool", "tool_call_id": call.id, "content": '"done"'} for call in first.calls]
    return [first, await model(Ask(messages, tools))]


@pytest.mark.parametrize("api", ["chat", "responses"])
def test_reasoning_goes_back_with_a_calls_result(address: str, api: Api):
    (task,) = tasks_named(["one function"])
    examples = list(islice(task.examples("calls"), 6))

    async def run(solver: Solver) -> list[list[Reply]]:
        keys = [TryKey("calls", str(number), 0, "medium") for number in range(len(examples))]
        try:
            return await asyncio.gather(*(with_a_call(solver, key, each) for key, each in zip(keys, examples)))
        finally:
            await solver.close()

    here = asyncio.run(run(InProcess(load())))
    there = asyncio.run(run(Endpoint(EndpointSettings(address, "ossia-mini", api=api))))
    assert sum(bool(replies[0].calls) for replies in here) > 3
    for ours, theirs in zip(here, there, strict=True):
        assert [compared(reply) for reply in ours] == [compared(reply) for reply in theirs]


def test_the_order_of_asks_changes_nothing():
    asks = questions(12)
    forward = answers(InProcess(load()), asks)
    backward = answers(InProcess(load()), asks[::-1])[::-1]
    assert [compared(reply) for reply in forward] == [compared(reply) for reply in backward]
