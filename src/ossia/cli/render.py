"""`ossia render`: print the exact prompt that the server would make of a request."""

import asyncio
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ossia.cli.app import app
from ossia.cli.common import DateOption, IdentityOption, KnowledgeCutoffOption, ModelOption, fail

if TYPE_CHECKING:
    from ossia.server.apis.render import RenderedRequest
    from ossia.server.settings import Settings


@app.command()
def render(
    request: Annotated[str, typer.Argument(help="A file with the JSON body of a request; - reads standard input.")],
    api: Annotated[str, typer.Option(help="Whose request it is: chat, responses, messages or completions.")] = "chat",
    model: ModelOption = "ossia-mini",
    name: Annotated[list[str] | None, typer.Option(help="Another name that requests may use. Repeatable.")] = None,
    identity: IdentityOption = None,
    knowledge_cutoff: KnowledgeCutoffOption = None,
    date: DateOption = None,
    tokens: Annotated[bool, typer.Option("--tokens", help="Print token ids instead of text.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print text, ids and warnings as one JSON object.")] = False,
) -> None:
    """Print the prompt of a request, exactly as the server renders it. No weights are loaded.

    The token count and the warnings go to standard error. A request that the server would refuse exits with 1.
    """
    from ossia.harmony.opening import OPENING, opening
    from ossia.server.settings import Settings

    try:
        body = sys.stdin.buffer.read() if request == "-" else Path(request).read_bytes()
        first = opening(OPENING, identity, knowledge_cutoff, date, under="--")
        made = _rendered(body, api, model, Settings(names=tuple(name or ()), opening=first), as_json)
    except (ValueError, OSError, ModuleNotFoundError) as error:
        fail(str(error))
    if as_json:
        from ossia.server.http.decoding.json_codec import encode

        typer.echo(encode(made).decode())
        return
    for prompt in made.prompts:
        typer.echo(" ".join(map(str, prompt.tokens)) if tokens else prompt.prompt)
    for warning in made.warnings:
        typer.secho(f"warning: {warning}", err=True, fg="yellow")
    counts = " + ".join(str(prompt.count) for prompt in made.prompts)
    typer.secho(f"{counts} tokens (context {made.max_model_len})", err=True, dim=True)


def _rendered(body: bytes, api: str, model: str, settings: "Settings", as_json: bool) -> "RenderedRequest":
    from ossia.loading import outline
    from ossia.server.apis.render import render_body
    from ossia.server.errors import ApiError
    from ossia.server.http.decoding.json_codec import encode

    try:
        return asyncio.run(render_body(outline(model), api, body, settings))
    except ApiError as error:
        if as_json:
            typer.echo(encode({"status": error.status, **error.body()}).decode())
            raise typer.Exit(1) from None
        fail(f"{error.status} {error.message}")
