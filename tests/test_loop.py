"""The loop with built-in tools: sessions are opened, called, limited, cancelled and closed.

A scripted engine says the turns, and fake sessions answer the calls.
"""

import asyncio
import threading
from dataclasses import replace
from typing import Any

import pytest

from ossia.chat import CallTool, Chat, ToolProgressed, ToolResult, ToolStarted, TurnOptions, converse, gather
from ossia.harmony.grammar import GrammarCache
from ossia.harmony.messages import Message, System, ToolNamespace, ToolSpec, system, user
from ossia.tools.result_text import bounded, without_old_results
from ossia.tools.session import ToolProgress, ToolUnavailableError
from ossia.tools.toolset import ToolSet
from tests.support.engine import ScriptedEngine, scripted_model
from tests.support.sessions import QUERY, FakeDetails, FakeSession, fake_browser, fake_python
from tests.support.vocabularies import small

FINAL = "<|channel|>final<|message|>{0}<|return|>"
PYTHON = "<|channel|>analysis to=python code<|message|>{0}<|call|>"
SEARCH = '<|channel|>analysis to=browser.search code<|message|>{{"query":"{0}"}}<|call|>'
FUNCTION = " to=functions.double<|channel|>commentary <|constrain|>json<|message|>{0}<|call|>"
GRAMMARS = GrammarCache(small())


def double(x: int) -> int:
    """Twice x."""
    return 2 * x


def chat_with(*turns: str, context: int = 4000, obeys: bool = True, **settings: Any) -> tuple[Chat, ScriptedEngine]:
    script = ScriptedEngine(list(turns), context=context, obeys=obeys)
    return Chat(scripted_model(engine=script, context=context), **settings), script


# Sessions of a conversation


def test_a_built_in_tool_is_declared_called_and_answered_on_analysis():
    session = fake_python(answer=lambda name, text: "4\n")
    chat, script = chat_with(PYTHON.format("print(2 + 2)"), FINAL.format("4"), tools=[session])
    with chat:
        answer = chat.ask("2 + 2?")
    assert answer.text == "4"
    assert "# Tools\n\n## python\n\nRuns code." in script.prompts[0].partition("<|end|>")[0]  # in the system message
    assert script.prompts[1].endswith(
        "<|channel|>analysis to=python code<|message|>print(2 + 2)<|call|>"
        "<|start|>python to=assistant<|channel|>analysis<|message|>4\n<|end|><|start|>assistant"
    )
    assert session.events == ["open", "run", "close"]


def test_events_tell_when_a_call_starts_what_it_writes_and_its_details():
    session = fake_browser(progress=("searching\n", "3 found\n"))
    chat, _ = chat_with(SEARCH.format("x"), FINAL.format("ok"), tools=[session])
    events = [event for event in chat.stream("go") if isinstance(event, ToolStarted | ToolProgressed | ToolResult)]
    started, *progressed, result = events
    assert isinstance(started, ToolStarted)
    assert (started.call.recipient, started.call.text) == ("browser.search", '{"query":"x"}')
    assert progressed == [ToolProgressed("browser.search", ToolProgress(text)) for text in ("searching\n", "3 found\n")]
    assert isinstance(result, ToolResult)
    assert (result.message.name, result.failed, result.details) == ("browser.search", False, FakeDetails("search"))
    assert result.call is started.call


def test_state_lasts_over_answers_and_functions_work_beside_it():
    session = fake_python()
    turns = [
        PYTHON.format("x = 1"),
        FUNCTION.format('{"x":21}'),
        FINAL.format("a"),
        PYTHON.format("x"),
        FINAL.format("b"),
    ]
    chat, _ = chat_with(*turns, tools=[session, double])
    with chat:
        assert [m.name for m in chat.ask("one").messages if m.role == "tool"] == ["python", "functions.double"]
        chat.ask("two")
        assert session.events == ["open", "run", "run"]
        assert len(set(session.loops)) == 1
    assert session.events[-1] == "close"


def test_sessions_stay_on_their_own_event_loop_for_async_callers():
    session = fake_python()
    chat, _ = chat_with(PYTHON.format("1"), FINAL.format("a"), PYTHON.format("2"), FINAL.format("b"), tools=[session])

    async def ask() -> str:
        return (await chat.ask_async("one")).text

    assert asyncio.run(ask()) == "a"
    assert chat.ask("two").text == "b"
    assert session.loops[0] is session.loops[1]


def test_other_tools_close_those_before():
    session = fake_python()
    chat, script = chat_with(FINAL.format("a"), FINAL.format("b"), tools=[session])
    chat.ask("one")
    chat.use_tools([])
    chat.ask("two")
    assert session.events == ["open", "close"]
    assert "## python" not in script.prompts[1]


def test_a_chat_that_is_forgotten_closes_its_tools():
    session = fake_python()
    chat, script = chat_with(FINAL.format("a"), tools=[session])
    chat.ask("one")
    script.requests.clear()
    del chat
    assert session.events[-1] == "close"


# Failures


def test_a_tool_that_cannot_start_is_an_error_before_the_answer():
    working, broken = fake_browser(), fake_python(broken=True)
    chat, script = chat_with(FINAL.format("a"), tools=[working, broken])
    with pytest.raises(ToolUnavailableError, match="no sandbox on this machine"):
        chat.ask("one")
    assert script.prompts == []
    assert chat.history == []
    assert working.events == ["open", "close"]  # nothing stays open


@pytest.mark.parametrize("error", [ToolUnavailableError("the sandbox failed"), ZeroDivisionError("a bug of the tool")])
def test_a_tool_that_breaks_ends_the_answer_and_is_not_shown_to_the_model(error: Exception):
    chat, script = chat_with(PYTHON.format("1"), FINAL.format("again"), tools=[fake_python(answer=lambda *_: error)])
    with pytest.raises(ToolUnavailableError, match=str(error)):
        chat.ask("one")
    assert len(script.prompts) == 1
    assert chat.history[-1].text == "The call was stopped before it ended."
    assert chat.ask("two").text == "again"
    assert str(error) not in script.prompts[1]


def test_a_call_past_its_time_limit_is_stopped_and_the_model_reads_it():
    session = fake_python(seconds=60.0)
    chat, _ = chat_with(PYTHON.format("1"), FINAL.format("ok"), tools=[session])
    chat.how = TurnOptions(toolset=chat.how.toolset, tool_seconds=0.05)
    results = [event for event in chat.stream("go") if isinstance(event, ToolResult)]
    assert [(result.failed, result.message.text) for result in results] == [
        (True, "error: python ran longer than 0.05 s and was stopped")
    ]
    assert "cancelled" in session.events


# Approval


def test_calls_that_are_declined_are_not_run_and_the_model_reads_it():
    session = fake_python()
    asked: list[tuple[str, str]] = []

    def approve(call: CallTool) -> bool:
        asked.append((call.recipient, call.text))
        return call.text != "rm()"

    turns = [PYTHON.format("rm()"), PYTHON.format("ls()"), FINAL.format("ok")]
    chat, _ = chat_with(*turns, tools=[session], approve=approve)
    assert [m.text for m in chat.ask("go").messages if m.role == "tool"] == ["The user declined this call.", ": ls()"]
    assert asked == [("python", "rm()"), ("python", "ls()")]
    assert session.events == ["open", "run"]


def test_calls_that_need_approval_end_the_answer():
    session = fake_browser()
    turns = [SEARCH.format("x"), "<|channel|>analysis to=browser.open code<|message|>{}<|call|>"]
    chat, _ = chat_with(*turns, tools=[session])
    chat.how = replace(chat.how, needs_approval=frozenset({"browser.open"}))
    answer = chat.ask("go")
    assert answer.finish == "tool_calls"
    assert session.events == ["open", "run search"]


def test_limits_of_a_response_are_reset_before_each():
    class Counting(FakeSession):
        def begin_response(self) -> None:
            self.events.append("begin")

    session = Counting(ToolNamespace("python", ""))
    chat, _ = chat_with(FINAL.format("a"), FINAL.format("b"), tools=[session])
    chat.ask("one")
    chat.ask("two")
    assert session.events == ["open", "begin", "begin"]


# Leaving


def test_closing_the_iterator_ends_the_running_call():
    session = fake_python(seconds=600.0, progress=("working\n",))
    chat, script = chat_with(PYTHON.format("1"), FINAL.format("ok"), tools=[session])
    stream = chat.stream("go")
    assert any(isinstance(event, ToolProgressed) for event in stream)
    stream.close()
    assert session.events == ["open", "run", "cancelled"]
    assert script.closed == 1
    assert chat.history[-1].text == "The call was stopped before it ended."


def test_cancelling_an_async_caller_ends_the_running_call():
    begun = threading.Event()

    def started(*_: object) -> str:
        return ""

    session = fake_python(seconds=600.0, progress=("working\n",), answer=started)
    chat, _ = chat_with(PYTHON.format("1"), FINAL.format("ok"), tools=[session])

    async def leave() -> None:
        async def read() -> None:
            async for event in chat.stream_async("go"):
                if isinstance(event, ToolProgressed):
                    begun.set()

        task = asyncio.create_task(read())
        while not begun.is_set():
            await asyncio.sleep(0.001)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(asyncio.wait_for(leave(), 60))
    assert session.events == ["open", "run", "cancelled"]


# Limits


def test_calls_past_the_limit_are_answered_once_and_then_masked():
    turns = [PYTHON.format(n) for n in range(3)] + [FINAL.format("ok")]
    session = fake_python()
    chat, script = chat_with(*turns, tools=[session, double], max_tool_calls=2)
    answer = chat.ask("go")
    assert answer.text == "ok"
    assert [m.text for m in answer.messages if m.role == "tool"] == [": 0", ": 1", "tool call limit reached"]
    assert session.events.count("run") == 2
    assert "tool call limit reached" in script.prompts[3]


def test_past_the_limit_built_in_tools_cannot_be_called_but_functions_can():
    turns = [PYTHON.format(1), PYTHON.format(2), FUNCTION.format('{"x":1}'), PYTHON.format(3)]
    chat, script = chat_with(*turns, tools=[fake_python(), double], max_tool_calls=1)
    with pytest.raises(ValueError, match="is not allowed"):
        chat.ask("go")
    assert len(script.prompts) == 4
    assert [m.text for m in chat.history if m.role == "tool"] == [": 1", "tool call limit reached", "2"]


def test_built_in_tools_allow_a_hundred_steps():
    chat, script = chat_with(*[PYTHON.format("1")] * 120, tools=[fake_python()], context=100_000)
    assert chat.ask("go").finish == "steps"
    assert len(script.prompts) == 100


@pytest.mark.parametrize(
    ("choice", "first"),
    [("python", PYTHON.format("1")), ("browser.search", SEARCH.format("x")), ("browser", SEARCH.format("x")),
     ("required", PYTHON.format("1")), ("double", FUNCTION.format('{"x":1}'))],
)  # fmt: skip
def test_a_forced_choice_holds_until_the_first_call(choice: str, first: str):
    tools = [fake_python(), fake_browser(), double]
    chat, _ = chat_with(first, FINAL.format("ok"), tools=tools, tool_choice=choice)
    assert chat.ask("go").text == "ok"


def test_a_forced_choice_forbids_an_answer_before_the_call():
    chat, _ = chat_with(FINAL.format("ok"), tools=[fake_python()], tool_choice="python")
    with pytest.raises(ValueError, match="is not allowed"):
        chat.ask("go")


# Undeclared tools


@pytest.mark.parametrize(
    "header",
    ["<|channel|>analysis to=browser.click code", "<|channel|>container.exec<|channel|>analysis code",
     "<|channel|>commentary to=functions.treble <|constrain|>json"],
)  # fmt: skip
def test_a_call_of_an_undeclared_tool_is_answered_with_the_tools_that_exist(header: str):
    chat, script = chat_with(
        header + "<|message|>{}<|call|>", FINAL.format("ok"), obeys=False, tools=[fake_browser(), double]
    )
    answer = chat.ask("go")
    (result,) = [m for m in answer.messages if m.role == "tool"]
    assert result.text.startswith("unknown tool ")
    assert result.text.endswith("; the tools are: functions.double, browser.search, browser.open")
    assert answer.text == "ok"
    assert answer.reasoning == ""  # a call is no thinking, whatever its flaws
    assert f"<|start|>{result.name} to=assistant<|channel|>" in script.prompts[1]


def test_endless_unknown_calls_end_with_steps():
    call = "<|channel|>analysis to=browser.click code<|message|>{}<|call|>"
    chat, script = chat_with(*[call] * 120, obeys=False, tools=[fake_browser()], context=100_000)
    assert chat.ask("go").finish == "steps"
    assert len(script.prompts) == 100


def test_without_tools_to_run_an_undeclared_recipient_is_text():
    call = "<|channel|>analysis to=browser.click code<|message|>{}<|call|>"
    chat, _ = chat_with(call, obeys=False)
    assert chat.ask("go").finish == "stop"


def test_built_in_calls_run_before_a_call_for_the_client_ends_the_answer():
    toolset = ToolSet([session := fake_python()])
    client = ToolNamespace("functions", None, (ToolSpec("f", "", QUERY),))
    asyncio.run(toolset.open())
    messages = [system(System(tools=toolset.system_namespaces)), Message("developer", (_declares(client),)), user("go")]
    call = '<|start|>assistant<|channel|>commentary to=functions.f json<|message|>{"query":"x"}<|call|>'
    script = ScriptedEngine([PYTHON.format("1") + call])
    how = TurnOptions(toolset=toolset, max_calls=2)
    answer = gather(converse(script, GRAMMARS, messages, how))  # type: ignore[arg-type]
    assert answer.finish == "tool_calls"
    assert session.events == ["open", "run"]
    assert [m.recipient for m in answer.tool_calls] == ["python", "functions.f"]


def _declares(space: ToolNamespace) -> Any:
    from ossia.harmony.messages import Developer

    return Developer(None, (space,))


# Results within the context


@pytest.mark.parametrize(
    "text", ["x" * 100_000, "word " * 20_000, "日本語" * 30_000, "\n".join(map(str, range(50_000)))]
)
def test_long_results_are_cut_in_the_middle_with_a_note(text: str):
    cut = bounded(small(), text, 300)
    assert len(small().encode(cut)) < 360
    assert text.startswith(cut[:20])
    assert text.endswith(cut[-20:])
    assert " characters left out ...]" in cut
    assert "\ufffd" not in cut


def test_short_results_are_unchanged_and_half_surrogates_replaced():
    assert bounded(small(), "short\n", 300) == "short\n"
    assert bounded(small(), "a\ud800b\udc00\ud83d\ude00", 300) == "a\ufffdb\ufffd😀"


def test_a_huge_result_leaves_room_for_the_answer():
    chat, script = chat_with(
        PYTHON.format("1"), FINAL.format("ok"), tools=[fake_python(answer=lambda *_: "y " * 10**6)]
    )
    assert chat.ask("go").text == "ok"
    assert len(script.prompt_tokens[1]) < script.context


def page(cursor: int) -> str:
    return f"[{cursor}] title (https://x.org/{cursor})\n" + f"page{cursor} " * 60


def test_old_pages_are_removed_when_the_context_is_nearly_full():
    cursors = iter(range(20))
    session = fake_browser(answer=lambda *_: page(next(cursors)))
    turns = [SEARCH.format(n) for n in range(12)] + [FINAL.format("ok")]
    chat, script = chat_with(*turns, tools=[session], context=3000)
    assert chat.ask("go").text == "ok"
    assert "[page removed; open cursor 0 again]" in script.prompts[-1]
    assert "page11 page11" in script.prompts[-1]  # the newest stays
    assert all(len(tokens) <= 3000 * 0.75 + len(small().encode(page(11))) for tokens in script.prompt_tokens)


def test_only_results_of_built_in_tools_are_removed_oldest_first():
    results = [Message("tool", (f"[{n}] " + "a b " * 50,), name=name, recipient="assistant")
               for n, name in enumerate(["functions.f", "browser.open", "python", "browser.open"])]  # fmt: skip
    kept = without_old_results(small(), results, {"browser.open", "python"}, 10**6)
    assert [m.text[:20] for m in kept] == [
        results[0].text[:20], "[page removed; open ", "[output removed]", results[3].text[:20],
    ]  # fmt: skip
    assert without_old_results(small(), results, {"browser.open"}, 1)[2:] == results[2:]


# Tool sets


def test_a_tool_set_opens_once_and_closes_all():
    one, two = fake_browser(), fake_python()

    async def use() -> None:
        toolset = ToolSet([one], developer=[two])
        await asyncio.gather(toolset.open(), toolset.open())
        assert toolset.recipients == {"browser.search", "browser.open", "python"}
        assert [space.name for space in toolset.system_namespaces] == ["browser"]
        assert [space.name for space in toolset.developer_namespaces] == ["python"]
        assert (await toolset.run("browser.open", "{}")).text == "open: {}"
        await toolset.close()
        await toolset.close()

    asyncio.run(use())
    assert one.events[:3] == ["open", "run open", "close"]
    assert two.events[0] == "open"


def test_a_session_that_cannot_close_does_not_keep_the_others_open(caplog: pytest.LogCaptureFixture):
    class Stuck(FakeSession):
        async def close(self) -> None:
            raise OSError("stuck")

    stuck, other = Stuck(ToolNamespace("a", "")), fake_python()

    async def use() -> None:
        toolset = ToolSet([stuck, other])
        await toolset.open()
        await toolset.close()

    asyncio.run(use())
    assert other.events == ["open", "close"]
    assert "stuck" in caplog.text
