"""The terminal chat: what is written, what a /command does, and what Ctrl-C stops."""

import io
from pathlib import Path

import pytest

from ossia.chat import Chat, Done, ToolResult, Usage
from ossia.harmony.messages import assistant, tool
from ossia.harmony.parse import Delta, End, Start
from ossia.terminal import HELP, Screen, answer, command, interact, summary

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
