"""The terminal chat: one answer streamed to the screen, or a conversation at a prompt.

In: a `Chat` and the user's input. Out: reasoning dimmed, answers plain, tool results as they arrive.
"""

import sys
from collections.abc import Callable, Iterable
from contextlib import closing
from pathlib import Path
from typing import TextIO, get_args

from prompt_toolkit import PromptSession
from prompt_toolkit.history import FileHistory, History, InMemoryHistory

from ossia.chat import Chat, Done, Event, ToolResult
from ossia.harmony.messages import Effort
from ossia.harmony.parse import Delta, End, Start
from ossia.tools.python_file import tools_from

HELP = """/effort low|medium|high   how long to think        /tools FILE.py | off   functions the model may call
/new                      forget what was said     /help                  this
/exit                     leave                    Ctrl-C stops an answer, Ctrl-D leaves"""

DIM, PLAIN = "\x1b[2m", "\x1b[0m"
# Control characters that a model's text must not send to a terminal: all but newline and tab.
_CONTROL = dict.fromkeys([*range(9), *range(11, 32), *range(127, 160)])


class Screen:
    """Writes events as they arrive. Colors are used on terminals only."""

    def __init__(self, out: TextIO | None = None, colour: bool | None = None) -> None:
        self.out = out or sys.stdout
        self.colour = self.out.isatty() if colour is None else colour

    def show(self, events: Iterable[Event]) -> Done | None:
        """Stream an answer to the screen. Returns its `Done`, or None if it was stopped."""
        done = None
        for event in events:
            match event:
                case Start(recipient=str(recipient)):
                    self._write(f"[{recipient}] ", dim=True)
                case Delta(channel=channel, recipient=recipient, text=text):
                    self._write(text, dim=channel == "analysis" or recipient is not None)
                case End(message):
                    gap = "\n\n" if message.channel == "analysis" and not message.recipient else "\n"
                    self._write(gap)
                case ToolResult(message, failed):
                    self._write(f"[{message.name}{' failed' if failed else ''}] {message.text}\n", dim=True)
                case Done() as done:
                    pass
        return done

    def note(self, text: str) -> None:
        self._write(text + "\n", dim=True)

    def _write(self, text: str, dim: bool = False) -> None:
        clean = text.translate(_CONTROL)
        self.out.write(f"{DIM}{clean}{PLAIN}" if dim and self.colour and clean else clean)
        self.out.flush()


def summary(done: Done) -> str:
    """One line about an answer's tokens and time."""
    usage = done.usage
    speed = usage.output_tokens / usage.seconds if usage.seconds else 0.0
    cut = "" if done.finish == "stop" else f" · ended: {done.finish}"
    return (
        f"{usage.output_tokens} tokens ({usage.reasoning_tokens} thinking) · {usage.seconds:.1f} s · "
        f"{speed:.0f} tok/s · first after {usage.first_token_seconds:.2f} s{cut}"
    )


def interact(make_chat: Callable[[], Chat], history_file: Path | None, screen: Screen | None = None) -> None:
    """A conversation at a prompt until /exit or Ctrl-D. Ctrl-C stops the answer, not the program."""
    screen = screen or Screen()
    chat = make_chat()
    session: PromptSession[str] = PromptSession(history=_history(history_file))
    screen.note(f"{chat.model.name} · effort {chat.effort} · /help lists the commands")
    while True:
        try:
            line = session.prompt("> ").strip()
        except KeyboardInterrupt:
            continue
        except EOFError:
            return
        if line in ("/exit", "/quit"):
            return
        if line.startswith("/"):
            screen.note(command(chat, line))
        elif line:
            answer(chat, line, screen)


def answer(chat: Chat, text: str, screen: Screen) -> None:
    """Stream one answer. Ctrl-C ends it and keeps the text so far. A refusal (a prompt that is too long) is printed,
    not raised.
    """
    try:
        with closing(chat.stream(text)) as events:
            if done := screen.show(events):
                screen.note(summary(done))
    except KeyboardInterrupt:
        screen.note("\n(stopped)")
    except ValueError as error:
        screen.note(f"error: {error}")


def command(chat: Chat, line: str) -> str:
    """Execute a /command on the chat. Returns the text for the user."""
    name, _, rest = line.partition(" ")
    rest = rest.strip()
    match name:
        case "/help":
            return HELP
        case "/new":
            chat.history.clear()
            return "a new conversation"
        case "/effort" if rest in get_args(Effort):
            chat.effort = rest  # type: ignore[assignment]
            return f"effort {rest}"
        case "/effort":
            return f"effort is {chat.effort}; /effort low, medium or high sets it"
        case "/tools" if rest == "off":
            chat.use_tools(())
            return "no tools"
        case "/tools" if rest:
            try:
                chat.use_tools(tools_from(Path(rest)))
            except (OSError, ValueError) as error:
                return f"error: {error}"
    if name == "/tools":
        return "\n".join(f"{t.spec.name}: {t.spec.description}" for t in chat.how.tools) or "no tools: /tools FILE.py"
    return f"no command {name}\n{HELP}"


def _history(path: Path | None) -> History:
    if path is None:
        return InMemoryHistory()
    path.parent.mkdir(parents=True, exist_ok=True)
    return FileHistory(str(path))
