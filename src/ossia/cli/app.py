"""The Typer application that every command registers with."""

from importlib.metadata import version
from typing import Annotated

import typer

app = typer.Typer(
    help="Run, tune and judge open-weight reasoning models of the gpt-oss family.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"ossia {version('ossia')}")
        raise typer.Exit


@app.callback()
def options(
    show_version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """Run, tune and judge open-weight reasoning models of the gpt-oss family."""
