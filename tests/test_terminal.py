"""The terminal chat: what is written, what a /command does, and what Ctrl-C stops."""

import asyncio
import io
from pathlib import Path
from typing import Any

import msgspec
import pytest

from ossia.chat import CallTool, Chat, Done, ToolProgressed, ToolResult, ToolStarted, Usage
from ossia.harmony.messages import assistant, tool
from ossia.harmony.parse import Delta, End, Start
from ossia.terminal import HELP, Approver, Screen, TerminalTools, answer, command, interact, summary
from ossia.tools.choose import ToolSettings
from ossia.tools.functions import ToolOutput
from ossia.tools.session import Report, ToolProgress, ToolUnavailableError, ignore
from ossia.tools.toolset import ToolSet
from tests.support.engine import ScriptedEngine, scripted_model
from tests.support.sessions import FakeSession, fake_browser, fake_python


class Written(msgspec.Struct):
    files: tuple[str, ...]


class Ran(msgspec.Struct):
    stdout: str
    stderr: str
    exit_code: int


THOUGHT = [
    Start("assistant", "analysis", None, None),
    Delta("analysis", None, "7 and 5"),
    End(assistant("7 and 5", "analysis")),
]
SPOKEN = [Start("assistant", "final", None, None), Delta("final", None, "12"), End(assistant("12"))]
DONE = Done("stop", Usage(10, 20, 15, seconds=2.0, first_token_seconds=0.25))


def written(events, colour: bool = False) -> str:
    out = io.StringIO()
    Screen(out, colour).show(events)
    return out.getvalue()


def test_reasoning_is_dimmed_and_the_answer_plain():
    assert written([*THOUGHT, *SPOKEN, DONE], colour=True) == "\x1b[2m7 and 5\x1b[0m\n\n12\n"


def test_without_a_terminal_there_are_no_colours():
    assert written([*THOUGHT, *SPOKEN, DONE]) == "7 and 5\n\n12\n"


def test_a_model_cannot_drive_the_terminal():
    assert written([Delta("final", None, "a\x1b[2Jb\x07\x9bc\td\n")], colour=True) == "a[2Jbc\td\n"


def test_tools_are_shown_as_they_run():
    call = assistant('{"x": 1}', "commentary", "functions.f")
    events = [
        Start("assistant", "commentary", "functions.f", "json"),
        Delta("commentary", "functions.f", '{"x": 1}'),
        End(call),
        ToolResult(tool("functions.f", "2"), failed=False),
        ToolResult(tool("functions.f", "no"), failed=True),
    ]
    assert written(events) == '[functions.f] {"x": 1}\n[functions.f] 2\n[functions.f failed] no\n'


def test_what_a_call_writes_is_shown_once_as_it_comes():
    events = [
        ToolStarted(assistant("print(1)", "analysis", "python", "code")),
        ToolProgressed("python", ToolProgress("1\n2\n")),
        ToolResult(tool("python", "1\n2\n7", "analysis"), failed=False, details=Written(("plot.png",))),
    ]
    assert written(events) == "1\n2\n[python] 7\nfiles: plot.png\n"
    assert written([*events[:2], ToolResult(tool("python", "1\n2\n", "analysis"), failed=False)]) == "1\n2\n"


def test_a_command_is_shown_by_its_output_and_exit_code_not_by_its_json():
    result = tool("container.exec", '{"output": "a\\nb"}', "analysis")
    assert written([ToolResult(result, failed=False, details=Ran("a\n", "b\n", 0))]) == "[container.exec] a\nb\n"
    assert written([ToolResult(result, failed=False, details=Ran("", "", 2))]) == "[container.exec] exit code 2\n"
    live = [ToolProgressed("container.exec", ToolProgress("a\n")), ToolResult(result, False, Ran("a\n", "", 1))]
    assert written(live) == "a\n[container.exec] exit code 1\n"


def test_status_is_in_parentheses_and_long_results_are_cut():
    events = [
        ToolProgressed("browser.search", ToolProgress("searching x", "status")),
        ToolResult(tool("browser.search", "\n".join(map(str, range(100))), "analysis"), failed=False),
    ]
    shown = written(events).splitlines()
    assert shown[:2] == ["(searching x)", "[browser.search] 0"]
    assert shown[-1] == "... 70 more lines"


def test_a_tool_cannot_drive_the_terminal():
    events = [
        ToolProgressed("python", ToolProgress("\x1b[2Jx\x07\n")),
        ToolResult(tool("python", "\x1b]0;t\x07y"), False),
    ]
    assert "\x1b" not in written(events)
    assert "\x07" not in written(events)


# Approval


def approver(*replies: str, **settings: Any) -> tuple[Approver, io.StringIO, list[str]]:
    out, left, asked = io.StringIO(), list(replies), list[str]()

    def read(question: str) -> str:
        asked.append(question)
        return left.pop(0)

    return Approver(Screen(out, colour=False), ("container",), read=read if replies else None, **settings), out, asked


def call(recipient: str) -> CallTool:
    return CallTool(ToolSet(), recipient, "{}")


def test_commands_ask_and_other_calls_do_not():
    asks, _, asked = approver("y", "no", "")
    assert asks(call("python"))
    assert asked == []
    assert [asks(call("container.exec")) for _ in range(3)] == [True, False, False]
    assert asked[0] == "run container.exec? [y]es, [n]o, [a]lways: "


def test_always_asks_once():
    asks, _, asked = approver("a")
    assert all(asks(call("container.exec")) for _ in range(3))
    assert len(asked) == 1


def test_without_a_terminal_commands_are_declined_unless_agreed_before():
    asks, out, _ = approver()
    assert not asks(call("container.exec"))
    assert out.getvalue() == "(container.exec declined: it needs a yes at a terminal, or --yes)\n"
    assert approver(yes=True)[0](call("container.exec"))


def test_tools_that_need_approval_ask_too():
    class Guarded(FakeSession):
        def needs_approval(self, name: str) -> bool:
            return name == "open"

        async def run_approved(self, name: str, text: str, report: Report = ignore) -> ToolOutput:
            return await self.run(name, text, report)

    toolset = ToolSet([Guarded(fake_browser().namespace)])
    asyncio.run(toolset.open())
    asks, _, asked = approver("y")
    assert asks(CallTool(toolset, "browser.search", "{}"))
    assert asks(CallTool(toolset, "browser.open", "{}"))
    assert len(asked) == 1


def test_the_summary_names_what_an_answer_took():
    assert summary(DONE) == "20 tokens (15 thinking) · 2.0 s · 10 tok/s · first after 0.25 s"
    assert summary(Done("length", Usage())).endswith("ended: length")


@pytest.fixture
def chat() -> Chat:
    return Chat()


def test_effort_is_shown_set_and_guarded(chat: Chat):
    assert command(chat, "/effort high") == "effort high"
    assert chat.effort == "high"
    assert "medium or high" in command(chat, "/effort enormous")
    assert chat.effort == "high"


def test_tools_come_from_a_file_and_go(chat: Chat, tmp_path: Path):
    file = tmp_path / "mine.py"
    file.write_text('def twice(x: int) -> int:\n    """Twice x."""\n    return 2 * x\n\ndef _hidden(): ...\n')
    assert command(chat, f"/tools {file}") == "twice: Twice x."
    assert [tool.spec.name for tool in chat.how.tools] == ["twice"]
    assert command(chat, "/tools off") == "no tools"
    assert chat.how.tools == ()


def test_a_new_conversation_has_new_sessions(chat: Chat, tmp_path: Path):
    (tmp_path / "page.md").write_text("# Page\n")
    tools = TerminalTools(ToolSettings(search=f"corpus:{tmp_path}"))
    assert command(chat, "/tools browser", tools) == "browser"
    first = chat.how.toolset
    assert [space.name for space in chat.preamble()[0].content[0].tools] == ["browser"]  # type: ignore[union-attr]
    command(chat, "/new", tools)
    assert chat.how.toolset is not None
    assert chat.how.toolset is not first
    assert command(chat, "/tools off", tools) == "no tools"
    assert chat.how.toolset is None


def test_tools_that_cannot_be_offered_are_an_error_and_those_before_stay(chat: Chat):
    tools = TerminalTools()
    assert command(chat, "/tools browser", tools).startswith("error: the browser needs a search provider")
    assert command(chat, "/tools nothing", tools).startswith("error: --tools nothing: no such tool")
    assert command(chat, "/tools", tools) == "no tools: /tools NAMES"


def test_a_broken_tool_is_one_line_on_the_screen():
    script = ScriptedEngine(["<|channel|>analysis to=python code<|message|>1<|call|>"])
    session = fake_python(answer=lambda *_: ToolUnavailableError("the sandbox failed"))
    out = io.StringIO()
    with Chat(scripted_model(engine=script), tools=[session]) as chat:
        answer(chat, "go", Screen(out, colour=False))
    assert out.getvalue().endswith("error: the sandbox failed\n")


def test_new_forgets_and_unknown_commands_are_explained(chat: Chat):
    chat.history.append(assistant("hello"))
    command(chat, "/new")
    assert chat.history == []
    assert command(chat, "/what").endswith(HELP)


def test_ctrl_c_stops_the_answer_and_keeps_what_was_said(chat: Chat):
    class Interrupting(io.StringIO):
        def write(self, text: str) -> int:
            if self.tell() > 3:
                raise KeyboardInterrupt
            return super().write(text)

    out = Interrupting()
    screen = Screen(out, colour=False)
    screen.note = lambda text: None
    answer(chat, "What is 17 + 25?", screen)
    assert chat.history[0].text == "What is 17 + 25?"
    assert chat.engine.stats().running == 0


def test_a_conversation_at_the_prompt(tmp_path: Path):
    from prompt_toolkit.application import create_app_session
    from prompt_toolkit.input import create_pipe_input
    from prompt_toolkit.output import DummyOutput

    out = io.StringIO()
    with create_pipe_input() as typed, create_app_session(input=typed, output=DummyOutput()):
        typed.send_text("/effort low\nWhat is 2 + 2?\n/exit\n")
        interact(Chat, tmp_path / "state" / "history", Screen(out, colour=False))
    assert "effort low" in out.getvalue()
    assert "tok/s" in out.getvalue()
    assert "What is 2 + 2?" in (tmp_path / "state" / "history").read_text()
