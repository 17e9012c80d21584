"""`ossia warmup`: compile the CPU kernels that a model needs, so that the first start does not."""

from typing import Annotated

import typer

from ossia.cli.app import app
from ossia.cli.common import DENSE_HELP, KV_HELP, ModelOption, ThreadsOption, compile_kernels, fail


@app.command()
def warmup(
    model: ModelOption = "ossia-mini",
    dense: Annotated[str | None, typer.Option(help=f"{DENSE_HELP} As for the command that follows.")] = None,
    kv: Annotated[str | None, typer.Option(help=f"{KV_HELP} As for the command that follows.")] = None,
    threads: ThreadsOption = None,
) -> None:
    """Compile the CPU kernels that a model needs ahead of its first start, without loading its weights."""
    try:
        compile_kernels(model, dense=dense, kv=kv, threads=threads)
        typer.echo(f"the CPU kernels for {model} are compiled")
    except KeyboardInterrupt:
        raise typer.Exit(130) from None
    except (ValueError, OSError) as error:
        fail(str(error))
