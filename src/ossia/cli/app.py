"""The Typer application that every command registers with."""

import typer

app = typer.Typer(
    help="Run, tune and judge open-weight reasoning models of the gpt-oss family.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
