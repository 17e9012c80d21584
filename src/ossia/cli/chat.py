"""`ossia chat`: ask a model once, or talk with it."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Annotated

import typer

from ossia.cli.app import app
from ossia.cli.common import (
    BackendOption,
    DateOption,
    DenseOption,
    IdentityOption,
    KnowledgeCutoffOption,
    KvOption,
    MaxTokensOption,
    McpOption,
    MemoryGbOption,
    ModelOption,
    NetworkOption,
    SandboxOption,
    SchemaOption,
    SearchOption,
    ThreadsOption,
    ToolsOption,
    UnsafeOption,
    conversation_tools,
    fail,
    load_model,
    read_json,
    starting,
    state_folder,
    weight_options,
)

if TYPE_CHECKING:
    from ossia.chat import Chat
    from ossia.terminal import TerminalTools

ASKING = {"shell", "container", "repo_browser"}  # tools whose calls may change something


@app.command()
def chat(
    prompt: Annotated[str | None, typer.Argument(help="What to ask; without it, a conversation begins.")] = None,
    model: ModelOption = "ossia-mini",
    effort: Annotated[str, typer.Option(help="How long to think: low, medium or high.")] = "medium",
    as_json: Annotated[bool, typer.Option("--json", help="Print the whole exchange as one JSON object.")] = False,
    identity: IdentityOption = None,
    knowledge_cutoff: KnowledgeCutoffOption = None,
    date: DateOption = None,
    instructions: Annotated[str | None, typer.Option(help="What a developer tells the model.")] = None,
    tools: ToolsOption = None,
    search: SearchOption = None,
    mcp: McpOption = None,
    root: Annotated[Path | None, typer.Option(help="Folder of python and the shell; a new one unless given.")] = None,
    sandbox: SandboxOption = "auto",
    network: NetworkOption = False,
    unsafe_tools: UnsafeOption = False,
    yes: Annotated[bool, typer.Option("--yes", help="Run commands and patches without asking.")] = False,
    schema: SchemaOption = None,
    thinking_budget: Annotated[int | None, typer.Option(min=0, help="Maximum tokens of thinking.")] = None,
    max_tokens: MaxTokensOption = None,
    temperature: Annotated[float, typer.Option(min=0.0, help="0 is greedy.")] = 1.0,
    top_p: Annotated[float, typer.Option(help="Keep the likeliest tokens up to this probability.")] = 1.0,
    seed: Annotated[int | None, typer.Option(help="The same seed gives the same answer.")] = None,
    backend: BackendOption = "auto",
    dense: DenseOption = None,
    kv: KvOption = None,
    threads: ThreadsOption = None,
    memory_gb: MemoryGbOption = None,
) -> None:
    """Ask a model, or talk with it: the reasoning is dimmed, the answer plain."""
    given = SimpleNamespace(**locals())
    with starting():
        from ossia.terminal import interact
        from ossia.tools.session import ToolUnavailableError

    if effort not in ("low", "medium", "high"):
        fail(f"effort {effort!r} is none of low, medium, high")
    if as_json and prompt is None:
        fail("--json needs a prompt")
    try:
        offered = _tools(given)
        if prompt is None:
            interact(lambda: _chat(given, offered), state_folder() / "history", None, offered)
        else:
            _ask(given, offered)
    except KeyboardInterrupt:
        raise typer.Exit(130) from None
    except (ValueError, OSError, ModuleNotFoundError, ToolUnavailableError) as error:
        fail(str(error))


def _tools(given: SimpleNamespace) -> "TerminalTools":
    """The tools of the options. Commands and patches ask first, so they need a terminal or --yes."""
    from ossia.terminal import Approver, Screen, TerminalTools

    settings = conversation_tools(given)
    can_ask = sys.stdin.isatty() and sys.stderr.isatty() and not given.as_json
    asking = ({*ASKING, "python"} if given.unsafe_tools else ASKING) & set(settings.tools)
    if asking and not can_ask and not given.yes:
        fail(
            f"--tools {', '.join(sorted(asking))}: each call asks first, and there is no terminal; give --yes to agree"
        )
    screen = Screen()
    return TerminalTools(settings, Approver(screen, yes=given.yes, read=_read if can_ask else None))


def _read(question: str) -> str:
    """A line from the terminal. The question goes to standard error, so that an answer can go to a file."""
    typer.echo(question, err=True, nl=False)
    return input()


def _chat(given: SimpleNamespace, offered: "TerminalTools") -> "Chat":
    from ossia.chat import Chat
    from ossia.engine.request import SamplingParams

    params = SamplingParams(
        temperature=given.temperature, top_p=given.top_p, seed=given.seed, max_tokens=given.max_tokens
    )
    chat = Chat(
        load_model(given.model, given.backend, **weight_options(given)),
        instructions=given.instructions, identity=given.identity, knowledge_cutoff=given.knowledge_cutoff,
        date=given.date, effort=given.effort, response_format=read_json(given.schema) if given.schema else None,
        thinking_budget=given.thinking_budget, params=params,
    )  # fmt: skip
    offered.offer(chat)
    return chat


def _ask(given: SimpleNamespace, offered: "TerminalTools") -> None:
    """Answer one prompt on the screen, or as JSON."""
    from ossia.terminal import Screen, summary

    with _chat(given, offered) as chat:
        try:
            if given.as_json:
                typer.echo(json.dumps(_as_json(chat, given.prompt), ensure_ascii=False))
                return
            done = Screen().show(chat.stream(given.prompt))
            if done and sys.stderr.isatty():
                typer.secho(summary(done), dim=True, err=True)
        finally:
            offered.close()


def _as_json(chat: "Chat", prompt: str) -> dict[str, object]:
    from dataclasses import asdict

    answer = chat.ask(prompt)
    said = [
        {
            "role": message.role,
            "name": message.name,
            "channel": message.channel,
            "recipient": message.recipient,
            "text": message.text,
            "flaws": list(message.flaws),
        }
        for message in answer.messages
    ]
    return {
        "model": chat.model.name,
        "answer": answer.text,
        "reasoning": answer.reasoning,
        "finish": answer.finish,
        "messages": said,
        "usage": asdict(answer.usage),
    }
