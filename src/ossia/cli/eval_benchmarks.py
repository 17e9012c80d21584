"""The parts of `ossia eval` for benchmarks: run them, list them, compare, tabulate and view runs."""

import asyncio
import json
import re
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import typer

from ossia.cli.common import load_model, status_line, tool_settings

if TYPE_CHECKING:
    from collections.abc import Callable

    from ossia.evals.core.benchmark import Benchmark
    from ossia.evals.core.solver import Solver
    from ossia.evals.run import EvalPlan, OtherModels
    from ossia.harmony.messages import Effort

HOSTED_TYPES = {"python": "code_interpreter", "browser": "web_search", "shell": "shell"}
REPORTS = ("list", "compare", "table", "view")


def report(name: str, paths: list[Path], given: SimpleNamespace) -> None:
    """`ossia eval list`, `compare A B`, `table DIR`, `view DIR`. Raises ValueError for wrong arguments."""
    wanted = {"list": 0, "compare": 2, "table": 1}.get(name)
    if (wanted is not None and len(paths) != wanted) or (name == "view" and len(paths) not in (1, 2)):
        forms = {"list": "", "compare": " FIRST SECOND", "table": " FOLDER", "view": " FOLDER [OTHER]"}
        raise ValueError(f"give ossia eval {name}{forms[name]}")
    match name:
        case "list":
            _list(given.as_json)
        case "compare":
            _compare(paths[0], paths[1], given.as_json)
        case "table":
            _table(paths[0], given.as_json)
        case _:
            _view(paths, given)


def _list(as_json: bool) -> None:
    from ossia.evals.catalogue import benchmarks

    if as_json:
        names = ("name", "title", "version", "repeats", "comparable")
        listed = [
            {**{name: getattr(each, name) for name in names}, "needs": sorted(each.needs),
             "data": [file._asdict() for file in each.data]}
            for each in benchmarks()
        ]  # fmt: skip
        typer.echo(json.dumps(listed))
        return
    typer.echo("mini: ossia-mini's own task families")
    for each in benchmarks():
        needs = f"; needs {', '.join(sorted(each.needs))}" if each.needs else ""
        more = f" and {len(each.data) - 1} more" if len(each.data) > 1 else ""
        files = f"; data {each.data[0].path}{more}" if each.data else ""
        typer.echo(f"{each.name}: {each.title} (×{each.repeats}{needs}{files})\n    {each.comparable}")


def _compare(first: Path, second: Path, as_json: bool) -> None:
    from ossia.evals.catalogue import benchmarks
    from ossia.evals.report.compared import compare_runs, compared_text

    compared = compare_runs(first, second)
    scales = {each.name: each.scale for each in benchmarks()}
    typer.echo(json.dumps(compared) if as_json else compared_text(compared, scales.get(compared["benchmark"], 100.0)))


def _table(folder: Path, as_json: bool) -> None:
    from ossia.evals.catalogue import benchmarks
    from ossia.evals.core.run_log import RESULT, RunLogError, runs_below
    from ossia.evals.report.table import card_table

    paths = [run / RESULT for run in runs_below(folder) if (run / RESULT).is_file()]
    results = [json.loads(path.read_text("utf-8")) for path in paths]
    if not results:
        raise RunLogError(f"{folder} holds no result: give the --out of runs that have ended")
    published = {each.name: each.published for each in benchmarks()}
    typer.echo(json.dumps(results) if as_json else card_table(results, published))


def _view(paths: list[Path], given: SimpleNamespace) -> None:
    from ossia.evals.view.page import write_page

    target = given.out or paths[0] / "report.html"
    write_page(paths, target, show_data=given.show_data)
    typer.echo(str(target))


def run(suite: str, given: SimpleNamespace) -> None:
    """Run benchmarks and print their results."""
    from ossia.evals.catalogue import benchmarks_named
    from ossia.evals.report.text import as_text

    chosen = benchmarks_named(suite)
    results: list[dict[str, Any]] = []
    with status_line() as say:
        try:
            results = asyncio.run(_run_all(chosen, given, say))
        except KeyboardInterrupt:
            typer.echo("stopped: the rows are kept, the same command continues", err=True)
            raise
    if given.as_json:
        typer.echo(json.dumps(results if len(results) > 1 else results[0]))
    else:
        typer.echo("\n\n".join(map(as_text, results)))


async def _run_all(
    chosen: "list[Benchmark]", given: SimpleNamespace, say: "Callable[[str], None]"
) -> list[dict[str, Any]]:
    from ossia.evals.run import run_benchmark

    solver = await _solver(given)
    others = await _others(given, solver)
    plan = plan_of(given)
    data = given.data or Path("data")
    results: list[dict[str, Any]] = []
    try:
        for benchmark in chosen:
            folder = given.out / benchmark.name if given.out else default_folder(benchmark.name, solver.name)
            if not given.as_json:
                typer.echo(f"log: {folder}", err=True)
            progress = TimeLeft(benchmark.name, say)
            results.append(await run_benchmark(benchmark, solver, plan, folder, data, others, progress))
    finally:
        for each in {id(each): each for each in (solver, others.judge, others.user) if each}.values():
            await each.close()
    return results


def plan_of(given: SimpleNamespace) -> "EvalPlan":
    from ossia.evals.core.solver import SamplingSettings
    from ossia.evals.run import EvalPlan

    limit = SamplingSettings().max_tokens if given.max_tokens is None else given.max_tokens
    return EvalPlan(
        given.efforts or ("high",),
        given.limit,
        given.repeats,
        given.seed or 0,
        SamplingSettings(given.temperature, max_tokens=limit),
        given.together,
        given.force,
    )


def default_folder(benchmark: str, model: str) -> Path:
    """evals/DATE-BENCHMARK-MODEL."""
    name = re.sub(r"[^\w.-]+", "-", model.rstrip("/").rsplit("/", 1)[-1])
    return Path("evals") / f"{time.strftime('%Y-%m-%d')}-{benchmark}-{name}"


class TimeLeft:
    """Progress with the time left, at the rate of this start."""

    def __init__(self, name: str, say: "Callable[[str], None]") -> None:
        self._name, self._say = name, say
        self._began = time.monotonic()
        self._first: int | None = None

    def __call__(self, done: int, total: int) -> None:
        self._first = done if self._first is None else self._first
        passed = time.monotonic() - self._began
        left = ""
        if done > self._first:
            left = f", {duration(passed / (done - self._first) * (total - done))} left"
        self._say(f"{self._name}: {done} of {total} done{left}")


def duration(seconds: float) -> str:
    """In the two largest units."""
    minutes = int(seconds) // 60
    if minutes >= 60:
        return f"{minutes // 60} h {minutes % 60} min"
    return f"{minutes} min {int(seconds) % 60} s" if minutes else f"{int(seconds)} s"


async def _solver(given: SimpleNamespace) -> "Solver":
    """The tested model: an endpoint, or a model in this process."""
    if given.endpoint:
        return await _endpoint(given.endpoint, given.model or "", given.api_key, given)
    return _in_process(given.model or "ossia-mini", given)


def _in_process(name: str, given: SimpleNamespace, *, tools: bool = True) -> "Solver":
    from ossia.evals.solvers.in_process import EngineSettings, InProcess
    from ossia.loading import usual_cache
    from ossia.tools.choose import ToolFactory

    model = load_model(name, given.backend, threads=given.threads, memory_gb=given.memory_gb)
    settings = EngineSettings(cache_bytes=usual_cache(model))
    if tools and given.tools and model.tokenizer:
        offered = tool_settings(given.tools, given.search, None)
        settings = replace(settings, toolset=ToolFactory(offered, model.tokenizer, model.config.max_context).toolset)
    return InProcess(model, settings)


async def _endpoint(url: str, model: str, key: str | None, given: SimpleNamespace, *, tools: bool = True) -> "Solver":
    from ossia.evals.solvers.endpoint import Endpoint, EndpointSettings

    hosted = [name.strip() for name in (given.tools or "").split(",") if name.strip()] if tools else []
    if unknown := [name for name in hosted if name not in HOSTED_TYPES]:
        raise ValueError(f"--tools {unknown[0]}: an endpoint's own tools are {', '.join(HOSTED_TYPES)}")
    if given.api not in ("chat", "responses"):
        raise ValueError(f"--api {given.api!r} is none of chat, responses")
    types = tuple(HOSTED_TYPES[name] for name in hosted)
    endpoint = Endpoint(EndpointSettings(url, model, key, given.api, types, given.together))
    await endpoint.check()
    return endpoint


async def _others(given: SimpleNamespace, tested: "Solver") -> "OtherModels":
    from ossia.evals.run import OtherModels

    judge = await _other(given.judge, given, tested)
    user = await _other(given.user_model, given, tested)
    effort: Effort = "medium"
    return OtherModels(judge, effort, judge is not None and judge.name == tested.name, user)


async def _other(value: str | None, given: SimpleNamespace, tested: "Solver") -> "Solver | None":
    """The model of --judge or --user-model: NAME, or URL#NAME. The tested model is not loaded twice."""
    if not value:
        return None
    if value.startswith(("http://", "https://")):
        url, _, name = value.partition("#")
        return await _endpoint(url, name, given.judge_api_key, given, tools=False)
    if value == tested.name and not given.tools:
        return tested
    return _in_process(value, given, tools=False)
