"""The command line: ossia bench, chat, eval, info, merge, serve, synth, train.

In: what a person types. Out: text on the terminal, an exit status of 0, or of 1 with one line that says what to do.
It does not know how anything is done: each command calls the layer that does.
"""

import json
import os
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from ossia.server import options

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from ossia.harmony.messages import Effort
    from ossia.kernels import Backend
    from ossia.task import Task

app = typer.Typer(
    help="Run, tune and judge open-weight reasoning models of the gpt-oss family.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

# Kernel threads wait awake for the next kernel, some 30 µs, then sleep: for ever, they would slow down all else that runs.
_SPINS = "2000"
_BACKEND_HELP = "cpu, triton (an NVIDIA GPU), or reference (torch, for checking)."
_DENSE_HELP = "Weights outside the experts: int8, bf16 (as they are), or int4 (cpu)."
_KV_HELP = "Keys and values: bf16; int8 or f32 (cpu); fp8 (triton)."
ModelOption = Annotated[
    str, typer.Option("--model", "-m", help="A checkpoint's folder, a Hugging Face name, or the embedded ossia-mini.")
]


@app.command()
def chat(
    prompt: Annotated[str | None, typer.Argument(help="What to ask; without it, a conversation begins.")] = None,
    model: ModelOption = "ossia-mini",
    effort: Annotated[str, typer.Option(help="How long to think: low, medium or high.")] = "medium",
    as_json: Annotated[bool, typer.Option("--json", help="Print the whole exchange as one JSON object.")] = False,
    instructions: Annotated[str | None, typer.Option(help="What a developer tells the model.")] = None,
    tools: Annotated[Path | None, typer.Option(help="A Python file whose functions the model may call.")] = None,
    schema: Annotated[Path | None, typer.Option(help="A JSON schema that the final answer must fit.")] = None,
    thinking_budget: Annotated[int | None, typer.Option(min=0, help="At most so many tokens of thinking.")] = None,
    max_tokens: Annotated[int | None, typer.Option(min=1, help="At most so many tokens an answer.")] = None,
    temperature: Annotated[float, typer.Option(min=0.0, help="0 is greedy.")] = 1.0,
    top_p: Annotated[float, typer.Option(help="Keep the likeliest tokens up to this probability.")] = 1.0,
    seed: Annotated[int | None, typer.Option(help="The same seed gives the same answer.")] = None,
    backend: Annotated[str, typer.Option(help=_BACKEND_HELP)] = "cpu",
    dense: Annotated[
        str | None, typer.Option(help=f"{_DENSE_HELP} Unless said: int8, or bf16 if small or on a card.")
    ] = None,
    kv: Annotated[str | None, typer.Option(help=f"{_KV_HELP} Unless said: bf16, or f32 if small.")] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads of the CPU kernels; the physical cores.")] = None,
) -> None:
    """Ask a model, or talk with it: the reasoning is dimmed, the answer plain."""
    from ossia.chat import Chat
    from ossia.engine.request import SamplingParams
    from ossia.terminal import Screen, interact, summary, tools_from

    if effort not in ("low", "medium", "high"):
        _fail(f"effort {effort!r} is none of low, medium, high")
    if as_json and prompt is None:
        _fail("--json needs a prompt")

    def make() -> Chat:
        return Chat(
            _load(model, backend, dense=dense, kv=kv, threads=threads),
            instructions=instructions,
            effort=effort,  # type: ignore[arg-type]
            tools=tools_from(tools) if tools else (),
            response_format=_read_json(schema) if schema else None,
            thinking_budget=thinking_budget,
            params=SamplingParams(temperature=temperature, top_p=top_p, seed=seed, max_tokens=max_tokens),
        )

    try:
        if prompt is None:
            interact(make, Path.home() / ".local" / "state" / "ossia" / "history")
        elif as_json:
            typer.echo(json.dumps(_as_json(make(), prompt), ensure_ascii=False))
        else:
            screen = Screen()
            done = screen.show(make().stream(prompt))
            if done and sys.stderr.isatty():
                typer.secho(summary(done), dim=True, err=True)
    except KeyboardInterrupt:
        raise typer.Exit(130) from None
    except (ValueError, OSError, ModuleNotFoundError) as error:
        _fail(str(error))


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
    dense: Annotated[str | None, typer.Option(help=f"{_DENSE_HELP} Unless said: int8, or bf16 on a card.")] = None,
    kv: Annotated[str | None, typer.Option(help=f"{_KV_HELP} Unless said: bf16.")] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads of the CPU kernels.")] = None,
    backend: Annotated[str, typer.Option(help=_BACKEND_HELP)] = "cpu",
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Measure speed and memory, beside what this machine can do in the same minutes. Numbers: --depth 0,4096."""
    from ossia.bench.passes import cases_of
    from ossia.bench.report import as_json as to_json
    from ossia.bench.report import as_text
    from ossia.bench.run import run
    from ossia.bench.subject import Choice

    try:
        prompts, gens, batches, depths = (_numbers(each) for each in (prompt, gen, batch, depth))
        if not (prompts or gens):
            prompts, gens = [512], [128]
        cases = cases_of(prompts, gens, batches, depths or [0])
        chosen = Choice(model, shape, _backend(backend), dense, kv, threads)  # type: ignore[arg-type]
        with _status() as say:
            report = run(chosen, cases, repeat=repeat, say=say)
        typer.echo(json.dumps(to_json(report), allow_nan=False) if as_json else as_text(report))
    except KeyboardInterrupt:
        raise typer.Exit(130) from None
    except (ValueError, OSError, ModuleNotFoundError) as error:
        _fail(str(error))


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
    max_tokens: Annotated[int, typer.Option(min=1, help="At most so many tokens a sampling.")] = 500,
    backend: Annotated[str, typer.Option(help=_BACKEND_HELP)] = "cpu",
    threads: Annotated[int | None, typer.Option(min=1, help="Threads of the CPU kernels.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Judge a model on fresh problems: accuracy with its 95 % interval by family and effort, and tokens of thinking."""
    try:
        from ossia.evals.mini import cases_of
        from ossia.evals.mini import evaluate as run
        from ossia.evals.report import as_json as to_json
        from ossia.evals.report import as_table

        cases = cases_of(_tasks(suite, family), _efforts(effort), count, seed)
        loaded = _load(model, backend, threads=threads)
        with _status() as say:
            told = lambda done: say(f"{done} of {len(cases)} answered")  # noqa: E731
            scores = run(loaded, cases, seed, temperature, max_tokens, told)
        typer.echo(json.dumps(to_json(scores, loaded.name, seed, temperature)) if as_json else as_table(scores))
    except KeyboardInterrupt:
        raise typer.Exit(130) from None
    except (ValueError, OSError, ModuleNotFoundError) as error:
        _fail(str(error))


@app.command()
def info(
    model: Annotated[str, typer.Argument(help="A preset (gpt-oss-120b, gpt-oss-20b) or what -m takes.")],
) -> None:
    """Print a model's layers, experts, exact parameters, checkpoint size and cache bytes, by component."""
    from ossia.model.info import describe

    try:
        typer.echo(describe(_config(model)))
    except (ValueError, OSError) as error:
        _fail(str(error))


@app.command()
def serve(
    model: options.Model = "ossia-mini",
    name: options.Names = None,
    backend: options.Backend = "cpu",
    dense: options.Dense = None,
    kv: options.Kv = None,
    threads: options.Threads = None,
    host: options.Host = "127.0.0.1",
    port: options.Port = 8000,
    api_key: options.ApiKeys = None,
    allow_origin: options.Origins = None,
    allow_host: options.Hosts = None,
    behind_proxy: options.BehindProxy = False,
    max_body: options.MaxBody = 32,
    max_running: options.MaxRunning = 256,
    max_waiting: options.MaxWaiting = 512,
    answer_seconds: options.AnswerSeconds = 3600,
    drain_seconds: options.DrainSeconds = 30,
    cache_gb: options.CacheGb = None,
    prefix_gb: options.PrefixGb = 1,
    state: options.State = None,
    state_gb: options.StateGb = 1,
    state_days: options.StateDays = 30,
    no_state: options.NoState = False,
    quiet: options.Quiet = False,
    log_prompts: options.LogPrompts = False,
) -> None:
    """Serve a model to every OpenAI client and to a browser, on this machine alone unless told otherwise."""
    from ossia.server.run import serve as run
    from ossia.server.settings import Settings

    try:
        settings = Settings(
            names=tuple(name or ()), host=host, port=port, api_keys=tuple(api_key or ()),
            allow_origins=tuple(allow_origin or ()), allow_hosts=tuple(allow_host or ()),
            behind_proxy=behind_proxy,
            max_body_bytes=int(max_body * 2**20), max_running=max_running, max_waiting=max_waiting,
            answer_seconds=answer_seconds, drain_seconds=drain_seconds,
            cache_bytes=None if cache_gb is None else int(cache_gb * 2**30), prefix_bytes=int(prefix_gb * 2**30),
            state=None if no_state else state or Path.home() / ".local" / "state" / "ossia",
            state_bytes=int(state_gb * 2**30), state_days=state_days, log_requests=not quiet, log_prompts=log_prompts,
        )  # fmt: skip
        run(lambda: _load(model, backend, dense=dense, kv=kv, threads=threads), settings, typer.echo)
    except KeyboardInterrupt:
        raise typer.Exit(130) from None
    except (ValueError, OSError, ModuleNotFoundError) as error:
        _fail(str(error))


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
        _fail(f"layout {layout!r} is none of {', '.join(LAYOUTS)}")
    asked = {"layers": layers, "experts": experts, "hidden": hidden, "intermediate": intermediate, "vocab": vocab}
    changes = {name: value for name, value in asked.items() if value is not None}
    try:
        config = write(_config(shape), folder, layout, seed, **changes)
        typer.echo(f"{folder}: {config.layers} layers, {layout} layout, seed {seed}")
    except (ValueError, OSError) as error:
        _fail(str(error))


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
    with _training():
        from ossia.train.run import run, say_plan

        _import_from_here()
        if plan:
            say_plan(recipe)
            return
        made = run(recipe, out, skip_bad=skip_bad)
        if os.environ.get("RANK", "0") == "0":  # torchrun's: one speaks for all
            typer.echo(made)


@app.command()
def merge(
    adapter: Annotated[Path, typer.Argument(help="The folder of an adapter in PEFT's format.")],
    folder: Annotated[Path, typer.Argument(help="Where the merged checkpoint goes; created when missing.")],
    model: Annotated[
        str | None, typer.Option("--model", "-m", help="The model it was trained over; the adapter's own unless said.")
    ] = None,
    layout: Annotated[str, typer.Option(help="hf (MXFP4), bf16 (loses least), or original.")] = "hf",
) -> None:
    """Merge an adapter into its model, and say how much of it stayed and how far logits moved by the rounding."""
    from ossia.model.layouts import LAYOUTS

    if layout not in LAYOUTS:
        _fail(f"layout {layout!r} is none of {', '.join(LAYOUTS)}")
    with _training():
        from ossia.hub import find
        from ossia.model.checkpoint import open_checkpoint
        from ossia.train.merge import merge as run
        from ossia.train.peft_format import base_of, read_adapter

        checkpoint = open_checkpoint(find(model or base_of(adapter)))
        typer.echo(run(checkpoint, read_adapter(adapter, checkpoint.config), folder, layout))


def main() -> None:
    """The console script's entry."""
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", _SPINS)
    app()


def _load(name: str, backend: str, **kinds: Any):  # noqa: ANN202 - Model's module is imported only when a command needs it
    from ossia.loading import load

    backend = _backend(backend)
    if not sys.stderr.isatty() or name == "ossia-mini":
        model = load(name, backend, **kinds)
    else:
        from rich.console import Console
        from rich.progress import Progress

        with Progress(console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task(f"loading {name}", total=None)
            model = load(name, backend, lambda done, total: bar.update(task, completed=done, total=total), **kinds)
    if model.plan:
        typer.secho(model.plan.line(), dim=True, err=True)
    return model


def _backend(name: str) -> "Backend":
    if name not in ("cpu", "reference", "triton"):
        raise ValueError(f"backend {name!r} is none of cpu, triton, reference")
    return name


@contextmanager
def _training() -> "Iterator[None]":
    """What training cannot do is one line that says why."""
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name not in ("torch", "tokenizers"):
            raise
        _fail(f"training needs {error.name}: pip install 'ossia[train]'")
    except (ValueError, OSError, MemoryError) as error:
        _fail(str(error))


@contextmanager
def _status() -> "Iterator[Callable[[str], None]]":
    """Where to say what runs now: a line on the terminal, or nowhere."""
    if not sys.stderr.isatty():
        yield lambda _: None
        return
    from rich.console import Console

    with Console(stderr=True).status("") as status:
        yield status.update


def _numbers(given: list[str] | None) -> list[int]:
    """Of an option that may be repeated, and may hold several numbers with commas between."""
    words = [word for each in given or [] for word in each.split(",")]
    if wrong := [word for word in words if not word.strip().isdecimal()]:
        raise ValueError(f"{wrong[0]!r} is not a number of tokens")
    return [int(word) for word in words]


def _efforts(given: list[str] | None) -> "list[Effort]":
    """In the usual order; all where none is given."""
    from ossia.task import EFFORTS

    if wrong := [effort for effort in given or () if effort not in EFFORTS]:
        raise ValueError(f"effort {wrong[0]!r} is none of low, medium, high")
    return [effort for effort in EFFORTS if not given or effort in given]


def _tasks(suite: str, families: list[str] | None) -> "Sequence[Task]":
    """An eval's: of the catalogue, or what "module:name" names, each by its family where families are asked for."""
    from ossia.task import Task, tasks_of
    from ossia.tasks.catalogue import TASKS, tasks_named

    if ":" in suite:
        _import_from_here()
        tasks = tasks_of(suite)
        if not all(isinstance(task, Task) for task in tasks):
            raise ValueError(f"{suite!r} names what is no ossia.task.Task")
        if unknown := set(families or ()) - {task.name for task in tasks}:
            raise ValueError(f"no task family {min(unknown)!r}; there are {', '.join(task.name for task in tasks)}")
        return [task for task in tasks if not families or task.name in families]
    if suite != "mini":
        raise ValueError(f"no eval {suite!r}: there is mini, or tasks of your own as module:name")
    return tasks_named(families) if families else TASKS


def _import_from_here() -> None:
    """A module that a person names may lie in the folder where the command is given."""
    if "" not in sys.path:
        sys.path.insert(0, "")


def _config(name: str):  # noqa: ANN202
    from ossia.hub import find
    from ossia.model.checkpoint import open_checkpoint
    from ossia.model.config import ModelConfig

    return ModelConfig.preset(name) if name.startswith("gpt-oss-") else open_checkpoint(find(name)).config


def _as_json(chat, prompt: str) -> dict[str, object]:  # noqa: ANN001
    from dataclasses import asdict

    answer = chat.ask(prompt)
    said = [
        {
            "role": message.role,
            "name": message.name,
            "channel": message.channel,
            "recipient": message.recipient,
            "text": message.text,
            "flaws": list(message.flaws),
        }
        for message in answer.messages
    ]
    return {
        "model": chat.model.name,
        "answer": answer.text,
        "reasoning": answer.reasoning,
        "finish": answer.finish,
        "messages": said,
        "usage": asdict(answer.usage),
    }


def _read_json(path: Path) -> dict[str, object]:
    value = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(value, dict):
        raise ValueError(f"{path} holds no JSON object")
    return value


def _fail(message: str) -> NoReturn:
    typer.secho(f"error: {message}", err=True, fg="red")
    raise typer.Exit(1)
