"""`ossia info`, `synth` and `merge`: describe, write and merge checkpoints."""

from pathlib import Path
from typing import Annotated

import typer

from ossia.cli.app import app
from ossia.cli.common import config_of, fail, training_errors


@app.command()
def info(
    model: Annotated[str, typer.Argument(help="A preset (gpt-oss-120b, gpt-oss-20b) or what -m takes.")],
) -> None:
    """Print a model's layers, experts, exact parameters, checkpoint size and cache bytes, by component."""
    from ossia.model.info import describe

    try:
        typer.echo(describe(config_of(model)))
    except (ValueError, OSError) as error:
        fail(str(error))


@app.command()
def synth(
    shape: Annotated[str, typer.Argument(help="A preset (gpt-oss-20b, gpt-oss-120b), or a model whose shape to take.")],
    folder: Annotated[Path, typer.Argument(help="Where to write; created when missing.")],
    layout: Annotated[str, typer.Option(help="hf (MXFP4), bf16, or original.")] = "hf",
    seed: Annotated[int, typer.Option(help="The same seed gives the same weights in every layout.")] = 0,
    layers: Annotated[int | None, typer.Option(min=1, help="Another number of layers.")] = None,
    experts: Annotated[int | None, typer.Option(min=1, help="Another number of experts.")] = None,
    hidden: Annotated[int | None, typer.Option(min=1, help="Another width.")] = None,
    intermediate: Annotated[int | None, typer.Option(min=1, help="Another width of an expert.")] = None,
    vocab: Annotated[int | None, typer.Option(min=1, help="Another vocabulary; then without a tokenizer.")] = None,
) -> None:
    """Write a random checkpoint of a shape, complete with config and tokenizer, for speed and memory tests."""
    from ossia.model.layouts import LAYOUTS
    from ossia.synth import synth as write

    if layout not in LAYOUTS:
        fail(f"layout {layout!r} is none of {', '.join(LAYOUTS)}")
    asked = {"layers": layers, "experts": experts, "hidden": hidden, "intermediate": intermediate, "vocab": vocab}
    changes = {name: value for name, value in asked.items() if value is not None}
    try:
        config = write(config_of(shape), folder, layout, seed, **changes)
        typer.echo(f"{folder}: {config.layers} layers, {layout} layout, seed {seed}")
    except (ValueError, OSError) as error:
        fail(str(error))


@app.command()
def merge(
    adapter: Annotated[Path, typer.Argument(help="The folder of an adapter in PEFT's format.")],
    folder: Annotated[Path, typer.Argument(help="Where the merged checkpoint goes; created when missing.")],
    model: Annotated[
        str | None, typer.Option("--model", "-m", help="The model it was trained over; the adapter's own unless said.")
    ] = None,
    layout: Annotated[
        str | None, typer.Option(help="hf (MXFP4), bf16 (loses least), or original; the model's own unless given.")
    ] = None,
) -> None:
    """Merge an adapter into its model, and say how much of it stayed and how far logits moved by the rounding."""
    from ossia.model.layouts import LAYOUTS

    if layout is not None and layout not in LAYOUTS:
        fail(f"layout {layout!r} is none of {', '.join(LAYOUTS)}")
    with training_errors():
        from ossia.hub import find
        from ossia.model.checkpoint import open_checkpoint
        from ossia.train.peft.format import base_of, read_adapter
        from ossia.train.peft.merge import merge as run

        checkpoint = open_checkpoint(find(model or base_of(adapter)))
        run(checkpoint, read_adapter(adapter, checkpoint.config), folder, layout, say=typer.echo)
        typer.echo(f"merged into {folder}")
