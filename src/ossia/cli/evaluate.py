"""`ossia eval`: measure how often a model's answers are right."""

import json
from typing import TYPE_CHECKING, Annotated

import typer

from ossia.cli.app import app
from ossia.cli.common import BackendOption, MemoryGbOption, ModelOption, fail, import_from_here, load_model, status_line

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ossia.harmony.messages import Effort
    from ossia.task import Task


@app.command(name="eval")
def evaluate(
    suite: Annotated[
        str, typer.Argument(help="mini, ossia-mini's task families; or tasks of your own, as module:name.")
    ],
    model: ModelOption = "ossia-mini",
    effort: Annotated[list[str] | None, typer.Option(help="low, medium or high; all three unless said.")] = None,
    family: Annotated[list[str] | None, typer.Option(help="Only this family; may be repeated.")] = None,
    count: Annotated[int, typer.Option(min=1, help="Problems a family, split and effort.")] = 10,
    seed: Annotated[int, typer.Option(help="Another seed, other problems; training uses none of them.")] = 1000,
    temperature: Annotated[float, typer.Option(min=0.0, help="0 is greedy.")] = 1.0,
    max_tokens: Annotated[int, typer.Option(min=1, help="Maximum tokens of a completion.")] = 500,
    backend: BackendOption = "auto",
    threads: Annotated[int | None, typer.Option(min=1, help="Threads of the CPU kernels.")] = None,
    memory_gb: MemoryGbOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Judge a model on fresh problems: accuracy with its 95 % interval by family and effort, and tokens of thinking."""
    try:
        from ossia.evals.mini import cases_of
        from ossia.evals.mini import evaluate as run
        from ossia.evals.report.mini_scores import as_json as to_json
        from ossia.evals.report.mini_scores import as_table

        cases = cases_of(tasks_of_suite(suite, family), efforts_of(effort), count, seed)
        loaded = load_model(model, backend, threads=threads, memory_gb=memory_gb)
        with status_line() as say:
            told = lambda done: say(f"{done} of {len(cases)} answered")  # noqa: E731
            scores = run(loaded, cases, seed, temperature, max_tokens, told)
        typer.echo(json.dumps(to_json(scores, loaded.name, seed, temperature)) if as_json else as_table(scores))
    except KeyboardInterrupt:
        raise typer.Exit(130) from None
    except (ValueError, OSError, ModuleNotFoundError) as error:
        fail(str(error))


def efforts_of(given: list[str] | None) -> "list[Effort]":
    """In the usual order; all where none is given."""
    from ossia.task import EFFORTS

    if wrong := [effort for effort in given or () if effort not in EFFORTS]:
        raise ValueError(f"effort {wrong[0]!r} is none of low, medium, high")
    return [effort for effort in EFFORTS if not given or effort in given]


def tasks_of_suite(suite: str, families: list[str] | None) -> "Sequence[Task]":
    """An eval's: of the catalogue, or what "module:name" names, each by its family where families are asked for."""
    from ossia.mini.tasks.catalogue import TASKS, tasks_named
    from ossia.task import Task, tasks_of

    if ":" in suite:
        import_from_here()
        tasks = tasks_of(suite)
        if not all(isinstance(task, Task) for task in tasks):
            raise ValueError(f"{suite!r} names what is no ossia.task.Task")
        if unknown := set(families or ()) - {task.name for task in tasks}:
            raise ValueError(f"no task family {min(unknown)!r}; there are {', '.join(task.name for task in tasks)}")
        return [task for task in tasks if not families or task.name in families]
    if suite != "mini":
        raise ValueError(f"no eval {suite!r}: there is mini, or tasks of your own as module:name")
    return tasks_named(families) if families else TASKS
