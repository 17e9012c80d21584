"""`ossia train`: train a model, or adapters over one, by a recipe."""

import os
from pathlib import Path
from typing import Annotated

import typer

from ossia.cli.app import app
from ossia.cli.common import import_from_here, training_errors


@app.command()
def train(
    recipe: Annotated[Path, typer.Argument(help="A TOML recipe, such as recipes/mini.toml.")],
    out: Annotated[Path, typer.Option(help="Where checkpoints, the log and the finished model go.")] = Path("runs/out"),
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="Leave bad lines of data out, and count them.")] = False,
    plan: Annotated[
        bool, typer.Option("--plan", help="Say what is trained and the memory it takes; train nothing.")
    ] = False,
) -> None:
    """Train a model, or adapters over one, by a recipe; a run that was broken off goes on where it stopped."""
    with training_errors():
        from ossia.train.run import print_plan, run

        import_from_here()
        if plan:
            print_plan(recipe)
            return
        made = run(recipe, out, skip_bad=skip_bad)
        if os.environ.get("RANK", "0") == "0":  # torchrun's: one speaks for all
            typer.echo(made)
