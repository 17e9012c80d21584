"""The terminal chat: one answer streamed to the screen, or a conversation at a prompt.

In: a `Chat` and the user's input. Out: reasoning dimmed, answers plain, calls and their output as they come. Calls that
change something are run only if the user agrees.
"""

import sys
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import TextIO, get_args

from prompt_toolkit import PromptSession
from prompt_toolkit.history import FileHistory, History, InMemoryHistory

from ossia.chat import CallTool, Chat, Done, Event, ToolProgressed, ToolResult, ToolStarted
from ossia.harmony.messages import Effort
from ossia.harmony.parse import Delta, End, Start
from ossia.tools.background import BackgroundLoop
from ossia.tools.choose import ToolFactory, ToolSettings, tool_names
from ossia.tools.session import ToolProgress, ToolUnavailableError
from ossia.tools.toolset import ToolSet

HELP = """/effort low|medium|high   how long to think        /tools NAMES | off   python, browser, shell, FILE.py, ...
/new                      a new conversation       /help                this
/exit                     leave                    Ctrl-C stops an answer, Ctrl-D leaves"""
RESULT_LINES = 30  # of a tool's result on the screen
DECLINED = "declined: it needs a yes at a terminal, or --yes"

DIM, PLAIN = "\x1b[2m", "\x1b[0m"
# Control characters that a model's text must not send to a terminal: all but newline and tab.
_CONTROL = dict.fromkeys([*range(9), *range(11, 32), *range(127, 160)])


class Screen:
    """Writes events as they arrive. Colors are used on terminals only."""

    def __init__(self, out: TextIO | None = None, colour: bool | None = None) -> None:
        self.out = out or sys.stdout
        self.colour = self.out.isatty() if colour is None else colour
        self._live = ""  # what the running call has written

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
                case ToolStarted():
                    self._live = ""
                case ToolProgressed(progress=ToolProgress(text, stream)):
                    self._show_progress(text, stream)
                case ToolResult():
                    self._show_result(event)
                case Done() as done:
                    pass
        return done

    def _show_progress(self, text: str, stream: str) -> None:
        if stream == "status":
            self._write(f"({text})\n", dim=True)
            return
        self._live += text
        self._write(text, dim=True)

    def _show_result(self, result: ToolResult) -> None:
        """What was not shown while the call ran, cut to RESULT_LINES, and the files that it wrote."""
        shown, text = self._live.rstrip(), result.message.text.rstrip()
        if shown and not self._live.endswith("\n"):
            self._write("\n")
        self._live = ""
        if (code := getattr(result.details, "exit_code", None)) is not None:  # of a command: its text is JSON
            written = f"{getattr(result.details, 'stdout', '')}{getattr(result.details, 'stderr', '')}".rstrip()
            text = "\n".join(part for part in (shown or written, f"exit code {code}" if code else "") if part)
        rest = text.removeprefix(shown).strip("\n")
        if rest or not shown:
            self._write(f"[{result.message.name}{' failed' if result.failed else ''}] {_cut(rest)}\n", dim=True)
        if files := getattr(result.details, "files", ()):
            self._write(f"files: {', '.join(files)}\n", dim=True)

    def note(self, text: str) -> None:
        self._write(text + "\n", dim=True)

    def _write(self, text: str, dim: bool = False) -> None:
        clean = text.translate(_CONTROL)
        self.out.write(f"{DIM}{clean}{PLAIN}" if dim and self.colour and clean else clean)
        self.out.flush()


def _cut(text: str) -> str:
    lines = text.splitlines()
    if len(lines) <= RESULT_LINES:
        return text
    return "\n".join([*lines[:RESULT_LINES], f"... {len(lines) - RESULT_LINES} more lines"])


class Approver:
    """Asks before calls that change something: commands, patches, and those that their tool says need it.

    asks: namespaces and recipients to ask for. yes: agree to all. read: reads a line after a question; None without a
    terminal: then such calls are declined.
    """

    def __init__(
        self, screen: Screen, asks: Collection[str] = (), yes: bool = False, read: Callable[[str], str] | None = None
    ) -> None:
        self._screen, self._yes = screen, yes
        self.asks, self.read = frozenset(asks), read
        self._always: set[str] = set()

    def __call__(self, call: CallTool) -> bool:
        """Whether to run the call. It is on the screen already, as the model wrote it."""
        if self._yes or call.recipient in self._always or not self._must_ask(call):
            return True
        if self.read is None:
            self._screen.note(f"({call.recipient} {DECLINED})")
            return False
        try:
            reply = self.read(f"run {call.recipient}? [y]es, [n]o, [a]lways: ").strip().lower()
        except EOFError:
            reply = "n"
        if reply in ("a", "always"):
            self._always.add(call.recipient)
        return reply in ("y", "yes", "a", "always")

    def _must_ask(self, call: CallTool) -> bool:
        if call.recipient in self.asks or call.recipient.partition(".")[0] in self.asks:
            return True
        return isinstance(call.tool, ToolSet) and call.recipient in call.tool.needs_approval


class TerminalTools:
    """The tools that a conversation offers: those of --tools at first, and then those of /tools.

    settings: the search service, MCP servers and limits for all of them.
    """

    def __init__(self, settings: ToolSettings | None = None, approver: Approver | None = None) -> None:
        self.settings = settings or ToolSettings()
        self.approver = approver
        self._factory: ToolFactory | None = None

    def offer(self, chat: Chat, names: Sequence[str] | None = None) -> None:
        """Offer the tools of these names, or new sessions of the present ones. Raises ValueError and OSError."""
        settings = self.settings if names is None else replace(self.settings, tools=tuple(names))
        settings = replace(settings, asks_first=self.approver is not None)
        factory = ToolFactory(settings, chat.grammars.tokenizer, chat.model.config.max_context)
        toolset = factory.toolset()
        chat.use_tools([*factory.functions, *([toolset] if toolset else [])])
        self.close()
        self.settings, self._factory = settings, factory
        if self.approver:
            self.approver.asks = factory.asks
            chat.approve = self.approver

    def close(self) -> None:
        """Close what the sessions share. The chat closes the sessions."""
        if self._factory:
            BackgroundLoop().run(self._factory.close())
            self._factory = None


def summary(done: Done) -> str:
    """One line about an answer's tokens and time."""
    usage = done.usage
    speed = usage.output_tokens / usage.seconds if usage.seconds else 0.0
    cut = "" if done.finish == "stop" else f" · ended: {done.finish}"
    return (
        f"{usage.output_tokens} tokens ({usage.reasoning_tokens} thinking) · {usage.seconds:.1f} s · "
        f"{speed:.0f} tok/s · first after {usage.first_token_seconds:.2f} s{cut}"
    )


def interact(
    make_chat: Callable[[], Chat],
    history_file: Path | None,
    screen: Screen | None = None,
    tools: TerminalTools | None = None,
) -> None:
    """A conversation at a prompt until /exit or Ctrl-D. Ctrl-C stops the answer, not the program."""
    screen = screen or Screen()
    tools = tools or TerminalTools(approver=Approver(screen))
    chat = make_chat()
    session: PromptSession[str] = PromptSession(history=_history(history_file))
    questions: PromptSession[str] = PromptSession()
    if tools.approver and sys.stdin.isatty():
        tools.approver.read = questions.prompt
    screen.note(f"{chat.model.name} · effort {chat.effort} · /help lists the commands")
    try:
        _converse(chat, session, screen, tools)
    finally:
        chat.close()
        tools.close()


def _converse(chat: Chat, session: "PromptSession[str]", screen: Screen, tools: TerminalTools) -> None:
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
            screen.note(command(chat, line, tools))
        elif line:
            answer(chat, line, screen)


def answer(chat: Chat, text: str, screen: Screen) -> None:
    """Stream one answer. Ctrl-C ends it and keeps the text so far. A refusal (a prompt that is too long) and a tool
    that does not work are printed, not raised.
    """
    try:
        with closing(chat.stream(text)) as events:
            if done := screen.show(events):
                screen.note(summary(done))
    except KeyboardInterrupt:
        screen.note("\n(stopped)")
    except (ValueError, ToolUnavailableError) as error:
        screen.note(f"error: {error}")


def command(chat: Chat, line: str, tools: TerminalTools | None = None) -> str:
    """Execute a /command on the chat. Returns the text for the user."""
    name, _, rest = line.partition(" ")
    rest, tools = rest.strip(), tools or TerminalTools()
    match name:
        case "/help":
            return HELP
        case "/new":
            chat.history.clear()
            if chat.how.toolset:  # a new conversation has no pages, variables and files
                tools.offer(chat)
            return "a new conversation"
        case "/effort" if rest in get_args(Effort):
            chat.effort = rest  # type: ignore[assignment]
            return f"effort {rest}"
        case "/effort":
            return f"effort is {chat.effort}; /effort low, medium or high sets it"
        case "/tools" if rest:
            try:
                tools.offer(chat, () if rest == "off" else tool_names(rest))
            except (OSError, ValueError) as error:
                return f"error: {error}"
            if rest == "off":
                return "no tools"
    if name == "/tools":
        lines = [f"{each.spec.name}: {each.spec.description}" for each in chat.how.tools]
        lines += [name for name in tools.settings.tools if not name.endswith(".py")]
        return "\n".join(lines) or "no tools: /tools NAMES"
    return f"no command {name}\n{HELP}"


def _history(path: Path | None) -> History:
    if path is None:
        return InMemoryHistory()
    path.parent.mkdir(parents=True, exist_ok=True)
    return FileHistory(str(path))
