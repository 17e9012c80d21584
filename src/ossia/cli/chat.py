"""`ossia chat`: ask a model once, or talk with it."""

import json
import sys
from typing import Annotated

import typer

from ossia.cli.app import app
from ossia.cli.common import (
    BACKEND_HELP,
    MEMORY_HELP,
    DateOption,
    DenseOption,
    IdentityOption,
    KnowledgeCutoffOption,
    KvOption,
    ModelOption,
    SchemaOption,
    ToolsOption,
    fail,
    load_model,
    read_json,
    starting,
    state_folder,
)


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
    schema: SchemaOption = None,
    thinking_budget: Annotated[int | None, typer.Option(min=0, help="Maximum tokens of thinking.")] = None,
    max_tokens: Annotated[int | None, typer.Option(min=1, help="Maximum tokens of an answer.")] = None,
    temperature: Annotated[float, typer.Option(min=0.0, help="0 is greedy.")] = 1.0,
    top_p: Annotated[float, typer.Option(help="Keep the likeliest tokens up to this probability.")] = 1.0,
    seed: Annotated[int | None, typer.Option(help="The same seed gives the same answer.")] = None,
    backend: Annotated[str, typer.Option(help=BACKEND_HELP)] = "auto",
    dense: DenseOption = None,
    kv: KvOption = None,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads of the CPU kernels; the physical cores.")] = None,
    memory_gb: Annotated[float | None, typer.Option(min=0, help=MEMORY_HELP)] = None,
) -> None:
    """Ask a model, or talk with it: the reasoning is dimmed, the answer plain."""
    with starting():
        from ossia.chat import Chat
        from ossia.engine.request import SamplingParams
        from ossia.terminal import Screen, interact, summary
        from ossia.tools.python_file import tools_from

    if effort not in ("low", "medium", "high"):
        fail(f"effort {effort!r} is none of low, medium, high")
    if as_json and prompt is None:
        fail("--json needs a prompt")

    def make() -> Chat:
        return Chat(
            load_model(model, backend, dense=dense, kv=kv, threads=threads, memory_gb=memory_gb),
            instructions=instructions, identity=identity, knowledge_cutoff=knowledge_cutoff, date=date,
            effort=effort,  # type: ignore[arg-type]
            tools=tools_from(tools) if tools else (),
            response_format=read_json(schema) if schema else None,
            thinking_budget=thinking_budget,
            params=SamplingParams(temperature=temperature, top_p=top_p, seed=seed, max_tokens=max_tokens),
        )  # fmt: skip

    try:
        if prompt is None:
            interact(make, state_folder() / "history")
        elif as_json:
            typer.echo(json.dumps(_as_json(make(), prompt), ensure_ascii=False))
        else:
            screen = Screen()
            done = screen.show(make().stream(prompt))
            if done and sys.stderr.isatty():
                typer.secho(summary(done), dim=True, err=True)
    except KeyboardInterrupt:
        raise typer.Exit(130) from None
    except (ValueError, OSError, ModuleNotFoundError) as error:
        fail(str(error))


def _as_json(chat, prompt: str) -> dict[str, object]:  # noqa: ANN001
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
