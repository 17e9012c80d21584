"""`ossia schema`: whether a JSON schema can be enforced, what is left out, and which texts it allows.

In: a schema, and a file of JSON texts, one a line. Out: lines on standard output. It compiles the schema and tries each
text exactly as the server does: with the vocabulary of gpt-oss and the matcher that makes the masks.
"""

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from ossia.cli.app import app
from ossia.cli.common import fail


@app.command()
def schema(
    path: Annotated[str, typer.Argument(metavar="SCHEMA.json", help="A JSON schema; - reads standard input.")],
    strict: Annotated[
        bool, typer.Option("--strict", help="Refuse a schema of which anything cannot be enforced.")
    ] = False,
    accept: Annotated[
        str | None, typer.Option(metavar="FILE.jsonl", help="JSON texts to try, one a line; - reads standard input.")
    ] = None,
) -> None:
    """Say whether a JSON schema can be enforced and what is left out; print `allowed` or `refused` for each text.

    Exits with 0 when the schema can be enforced, and with 1 when it cannot, or a file cannot be read.
    """
    from ossia.harmony.enforce import SchemaError, leniently
    from ossia.harmony.grammar import GrammarCache
    from ossia.tokenizer.tokenizer import Tokenizer
    from ossia.tokenizer.tokenizer_json import o200k_harmony

    if path == accept == "-":
        fail("the schema and the texts cannot both come from standard input")
    try:
        given = json.loads(_read(path))
        texts = [] if accept is None else _read(accept).split("\n")
    except (OSError, ValueError, RecursionError) as error:
        fail(f"{error}" if isinstance(error, OSError) else f"{path} holds no JSON: {error}")
    if given is True:
        given = {}
    if not isinstance(given, dict):
        fail(f"{path} holds no JSON schema: it must be an object")
    grammars = GrammarCache(Tokenizer(o200k_harmony()))
    asked = given if strict else leniently(given)
    try:
        dropped = grammars.dropped(asked)
    except SchemaError as error:
        fail(f"the schema cannot be enforced: {error}")
    typer.echo("the schema can be enforced" + (", without what follows" if dropped else ""))
    for each in dropped:
        typer.echo(f"not enforced: {each}")
    for text in texts[:-1] if texts and not texts[-1] else texts:
        typer.echo("allowed" if grammars.allows(asked, text) else "refused")


def _read(path: str) -> str:
    """A file's text, or standard input for -."""
    return sys.stdin.read() if path == "-" else Path(path).read_text(encoding="utf-8")
