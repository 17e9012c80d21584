"""`ossia bench`: measure speed and memory."""

import json
from typing import Annotated

import typer

from ossia.cli.app import app
from ossia.cli.common import DENSE_HELP, KV_HELP, BackendOption, MemoryGbOption, backend_named, fail, status_line


@app.command()
def bench(
    model: Annotated[str | None, typer.Option("--model", "-m", help="A checkpoint's folder, or a name.")] = None,
    shape: Annotated[str | None, typer.Option(help="Random weights of a preset, or of a model's shape.")] = None,
    prompt: Annotated[list[str] | None, typer.Option(help="Prompt tokens; 512 where nothing is asked.")] = None,
    gen: Annotated[
        list[str] | None, typer.Option(help="Tokens decoded one by one; 128 where nothing is asked.")
    ] = None,
    batch: Annotated[list[str] | None, typer.Option(help="Sequences that decode together.")] = None,
    depth: Annotated[list[str] | None, typer.Option(help="Tokens in the cache before it begins; 0.")] = None,
    repeat: Annotated[int, typer.Option(min=1, help="Repetitions of each.")] = 5,
    dense: Annotated[
        str | None, typer.Option(help=f"{DENSE_HELP} Default: int8, or bf16 if small or on a GPU.")
    ] = None,
    kv: Annotated[str | None, typer.Option(help=f"{KV_HELP} Default: bf16, or f32 if small.")] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads of the CPU kernels.")] = None,
    memory_gb: MemoryGbOption = None,
    backend: BackendOption = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Measure speed and memory, beside what this machine can do in the same minutes. Numbers: --depth 0,4096."""
    from ossia.bench.passes import cases_of
    from ossia.bench.report import as_json as to_json
    from ossia.bench.report import as_text
    from ossia.bench.run import run
    from ossia.bench.subject import ModelChoice

    try:
        prompts, gens, batches, depths = (numbers(each) for each in (prompt, gen, batch, depth))
        if not (prompts or gens):
            prompts, gens = [512], [128]
        cases = cases_of(prompts, gens, batches, depths or [0])
        chosen = ModelChoice(model, shape, backend_named(backend), dense, kv, threads)  # type: ignore[arg-type]
        memory = None if memory_gb is None else int(memory_gb * 2**30)
        with status_line() as say:
            report = run(chosen, cases, repeat=repeat, say=say, memory=memory)
        typer.echo(json.dumps(to_json(report), allow_nan=False) if as_json else as_text(report))
    except KeyboardInterrupt:
        raise typer.Exit(130) from None
    except (ValueError, OSError, ModuleNotFoundError) as error:
        fail(str(error))


def numbers(given: list[str] | None) -> list[int]:
    """Of an option that may be repeated, and may hold several numbers with commas between."""
    words = [word for each in given or [] for word in each.split(",")]
    if wrong := [word for word in words if not word.strip().isdecimal()]:
        raise ValueError(f"{wrong[0]!r} is not a number of tokens")
    return [int(word) for word in words]
