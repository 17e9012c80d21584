"""Built-in tools run inside a solver: here through the tool set, at an endpoint by the server."""

import asyncio
from typing import Any

import pytest

from ossia.evals.core.benchmark import Ask, Reply
from ossia.evals.core.solver import SamplingSettings, Solver, TryKey
from ossia.evals.solvers.endpoint import Api, Endpoint, EndpointSettings
from ossia.evals.solvers.in_process import EngineSettings, InProcess
from ossia.tools.toolset import ToolSet
from tests.support.engine import ScriptedEngine, scripted_model
from tests.support.hosted import FakePython, hosted
from tests.support.live import live

ASK = Ask([{"role": "user", "content": "What is 6 times 7?"}])
CALL = "<|channel|>analysis<|message|>compute<|end|><|start|>assistant<|channel|>analysis to=python code<|message|>6*7<|call|>"
FINAL = "<|channel|>final<|message|>It is 42.<|return|>"
BROKEN = CALL.replace("6*7", "break")


def python() -> FakePython:
    return FakePython({"6*7": "42\n"})


def engine(first: str = CALL) -> Any:
    """Calls Python, and answers when the result is in the prompt."""
    return ScriptedEngine(lambda prompt: FINAL if "42\n" in prompt else first)


def asked(solver: Solver, count: int = 1) -> list[Reply]:
    async def run() -> list[Reply]:
        try:
            models = [
                solver.model(TryKey("b", str(n), 0, "low"), 1, SamplingSettings(max_tokens=200)) for n in range(count)
            ]
            return await asyncio.gather(*(model(ASK) for model in models))
        finally:
            await solver.close()

    return asyncio.run(run())


def in_process(scripted: Any) -> InProcess:
    settings = EngineSettings(lambda: ToolSet([python()]), make_engine=lambda: scripted)
    return InProcess(scripted_model(), settings)


def test_a_tool_runs_in_process_for_many_at_once():
    scripted = engine()
    for reply in asked(in_process(scripted), 5):
        assert (reply.text, reply.finish, reply.reasoning) == ("It is 42.", "stop", "compute")
        assert reply.message["executed_tools"] == [{"type": "python", "arguments": "6*7", "output": "42\n"}]
    assert "## python" in scripted.prompts[0]


def test_a_tool_that_breaks_is_an_error_of_its_try():
    (reply,) = asked(in_process(engine(BROKEN)))
    assert reply.finish == "error"
    assert "the sandbox broke" in reply.error


@pytest.mark.parametrize("api", ["chat", "responses"])
def test_a_tool_runs_at_the_server_with_the_same_answer(api: Api):
    (here,) = asked(in_process(engine()))
    with live(scripted_model(), engine(), hosted=hosted(None, python())) as url:
        settings = EndpointSettings(url, "script", api=api, tools=("code_interpreter",))
        (there,) = asked(Endpoint(settings))
    assert there.error == ""
    assert (there.text, there.finish, there.usage) == (here.text, here.finish, here.usage)
    assert len(there.message["executed_tools"]) == 1


def test_a_prompt_that_does_not_fit_is_an_error_of_its_try():
    solver = InProcess(scripted_model(), EngineSettings(make_engine=lambda: ScriptedEngine([FINAL], context=10)))  # type: ignore[arg-type, return-value]
    (reply,) = asked(solver)
    assert (reply.finish, reply.error) == ("error", "too long")


def test_a_cut_answer_is_cut_and_not_malformed():
    (reply,) = asked(in_process(ScriptedEngine(["<|channel|>analysis<|message|>" + "on and on " * 200])))
    assert (reply.text, reply.finish, reply.flaws) == (None, "length", ())
