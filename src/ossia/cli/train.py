"""`ossia train`: train a model, or adapters over a checkpoint, by a recipe."""

import os
import warnings
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from ossia.cli.app import app
from ossia.cli.common import import_from_here, training_errors


@app.command()
def train(
    recipe: Annotated[Path, typer.Argument(help="A TOML recipe, such as recipes/mini.toml.")],
    out: Annotated[Path, typer.Option(help="Folder for states, logs and the trained model.")] = Path("runs/out"),
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="Skip and count bad lines of data.")] = False,
    plan: Annotated[
        bool, typer.Option("--plan", help="Only print what is trained and the memory it takes; train nothing.")
    ] = False,
) -> None:
    """Train a model, or adapters over a checkpoint, by a recipe. Run it again to resume an interrupted run."""
    is_main = os.environ.get("RANK", "0") == "0"  # of the processes that torchrun started
    with training_errors(), _short_warnings(is_main):
        from ossia.train.run import print_plan, run

        import_from_here()
        if plan:
            print_plan(recipe)
            return
        made = run(recipe, out, skip_bad=skip_bad)
        if is_main:
            typer.echo(made)


@contextmanager
def _short_warnings(shown: bool) -> Generator[None]:
    """Print each FutureWarning, such as for an old name, as one line on stderr, or hide it."""
    with warnings.catch_warnings():
        full = warnings.showwarning

        def show(message: Warning | str, category: type[Warning], *where: Any) -> None:
            if not issubclass(category, FutureWarning):
                full(message, category, *where)
            elif shown:
                typer.secho(f"warning: {message}", fg="yellow", err=True)

        warnings.showwarning = show
        yield
