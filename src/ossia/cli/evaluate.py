"""`ossia eval`: measure how often a model's answers are right."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Annotated

import typer

from ossia.cli.app import app
from ossia.cli.common import BackendOption, MemoryGbOption, fail, import_from_here, load_model, status_line

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ossia.harmony.messages import Effort
    from ossia.task import Task

MINI_SEED = 1000  # training uses none of its problems

SUITE_HELP = (
    "Benchmarks with commas, as `ossia eval list` shows them; mini, ossia-mini's task families; or tasks of your own, "
    "as module:name. Or a report: list, compare A B, table DIR, view DIR [OTHER]."
)
Judge = Annotated[str | None, typer.Option(help="Grades what a program cannot: a model's name, or URL#NAME.")]
User = Annotated[str | None, typer.Option(help="Plays the user, where a benchmark has one: a name, or URL#NAME.")]
Key = Annotated[str | None, typer.Option(envvar="OSSIA_EVAL_API_KEY", help="The endpoint's key. Never logged.")]
JudgeKey = Annotated[str | None, typer.Option(envvar="OSSIA_JUDGE_API_KEY", help="Of --judge and --user-model.")]


@app.command(name="eval")
def evaluate(
    suite: Annotated[str, typer.Argument(help=SUITE_HELP)],
    paths: Annotated[list[Path] | None, typer.Argument(help="Folders of runs, for a report.")] = None,
    model: Annotated[
        str | None, typer.Option("--model", "-m", help="As for chat; or the endpoint's name of it.")
    ] = None,
    endpoint: Annotated[str | None, typer.Option(help="Ask a server: its URL.")] = None,
    api_key: Key = None,
    api: Annotated[str, typer.Option(help="How to ask the endpoint: chat or responses.")] = "chat",
    effort: Annotated[
        list[str] | None, typer.Option(help="low, medium, high. mini: all unless said; else high.")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Samples of each benchmark, spread over its data.")] = None,
    repeats: Annotated[int | None, typer.Option(min=1, help="Tries a sample; the benchmark's own unless said.")] = None,
    tools: Annotated[str | None, typer.Option(help="The model may use, with commas: python, browser, shell.")] = None,
    search: Annotated[str | None, typer.Option(help="What the browser searches, as for chat.")] = None,
    judge: Judge = None,
    judge_api_key: JudgeKey = None,
    user_model: User = None,
    data: Annotated[Path | None, typer.Option(help="Folder of the benchmarks' data; ./data unless said.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the log; evals/DATE-BENCHMARK-MODEL unless said.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Discard another run's rows in the folder.")] = False,
    together: Annotated[int, typer.Option(min=1, help="Tries under way at once.")] = 128,
    family: Annotated[list[str] | None, typer.Option(help="mini: only this family; may be repeated.")] = None,
    count: Annotated[int, typer.Option(min=1, help="mini: problems a family, split and effort.")] = 10,
    seed: Annotated[int | None, typer.Option(help="Other samples of answers; mini: other problems.")] = None,
    temperature: Annotated[float, typer.Option(min=0.0, help="0 is greedy.")] = 1.0,
    max_tokens: Annotated[int | None, typer.Option(min=1, help="Of a completion; mini: 500, else 131072.")] = None,
    show_data: Annotated[bool, typer.Option("--show-data", help="view: with the questions of the data.")] = False,
    backend: BackendOption = "auto",
    threads: Annotated[int | None, typer.Option(min=1, help="Threads of the CPU kernels.")] = None,
    memory_gb: MemoryGbOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Judge a model: benchmarks with both 95 % intervals and published values, or fresh problems of ossia-mini's tasks."""
    given = SimpleNamespace(**locals())
    try:
        from ossia.cli.eval_benchmarks import REPORTS, report, run

        if suite in REPORTS:
            report(suite, paths or [], given)
        elif paths:
            raise ValueError(f"{paths[0]}: only a report takes folders; {suite!r} is none of {', '.join(REPORTS)}")
        elif suite == "mini" or ":" in suite:
            _mini(given)
        else:
            given.efforts = tuple(efforts_of(effort)) if effort else ()
            run(suite, given)
    except KeyboardInterrupt:
        raise typer.Exit(130) from None
    except (ValueError, OSError, ImportError) as error:
        fail(str(error))


def _mini(given: SimpleNamespace) -> None:
    from ossia.evals.mini import MOST_TOKENS, cases_of
    from ossia.evals.mini import evaluate as run
    from ossia.evals.report.mini_scores import as_json as to_json
    from ossia.evals.report.mini_scores import as_table

    seed = MINI_SEED if given.seed is None else given.seed
    cases = cases_of(tasks_of_suite(given.suite, given.family), efforts_of(given.effort), given.count, seed)
    loaded = load_model(given.model or "ossia-mini", given.backend, threads=given.threads, memory_gb=given.memory_gb)
    with status_line() as say:
        told = lambda done: say(f"{done} of {len(cases)} answered")  # noqa: E731
        scores = run(loaded, cases, seed, given.temperature, given.max_tokens or MOST_TOKENS, told)
    typer.echo(json.dumps(to_json(scores, loaded.name, seed, given.temperature)) if given.as_json else as_table(scores))


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
    return tasks_named(families) if families else TASKS
