"""What several commands share: options, loading a model, progress, one-line errors."""

import json
import os
import sys
import time
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from ossia.progress import reported

if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from contextlib import AbstractContextManager
    from typing import Literal

    from ossia.kernels.ops import Backend
    from ossia.loading import Model
    from ossia.model.config import ModelConfig
    from ossia.tools.choose import ToolSettings

BACKEND_HELP = "auto (a GPU that can run the model, else cpu), cpu, triton (an NVIDIA GPU), or reference (torch)."
DENSE_HELP = "Weights outside the experts: int8, bf16 (as they are), or int4 (cpu)."
KV_HELP = "Keys and values: bf16; int8 or f32 (cpu); fp8 (triton)."
MEMORY_HELP = "GiB of memory the model may take; what is free on the machine and in its container, unless given."
ModelOption = Annotated[
    str, typer.Option("--model", "-m", help="A checkpoint's folder, a Hugging Face name, or the embedded ossia-mini.")
]

IdentityOption = Annotated[
    str | None, typer.Option(help="First line of the system message, instead of ChatGPT's; none leaves it out.")
]
KnowledgeCutoffOption = Annotated[str | None, typer.Option(help="YYYY-MM in the system message, or none.")]
DateOption = Annotated[str | None, typer.Option(help="YYYY-MM-DD in the system message, today, or none.")]
ToolsOption = Annotated[
    str | None,
    typer.Option(help="What the model may use, with commas: python, browser, shell, mcp, mcp:NAME, my_tools.py."),
]
SearchOption = Annotated[
    str | None, typer.Option(help="What the browser searches: corpus:FOLDER, exa, you, searxng:URL, replay:FILE.")
]
McpOption = Annotated[
    list[str] | None, typer.Option("--mcp", help="MCP server: NAME=URL, NAME=COMMAND, or a .json file. Repeatable.")
]
SandboxOption = Annotated[
    str, typer.Option("--sandbox", help="Form of the sandbox of python and the shell: auto, root, user or landlock.")
]
NetworkOption = Annotated[bool, typer.Option("--network", help="Programs of python and the shell may use the network.")]
UnsafeOption = Annotated[
    bool, typer.Option("--unsafe-tools", help="Run python and the shell without a sandbox, with your rights.")
]
BackendOption = Annotated[str, typer.Option(help=BACKEND_HELP)]
ThreadsOption = Annotated[int | None, typer.Option(min=1, help="Threads of the CPU kernels; the physical cores.")]
MemoryGbOption = Annotated[float | None, typer.Option(min=0, help=MEMORY_HELP)]
MaxTokensOption = Annotated[int | None, typer.Option(min=1, help="Maximum tokens of an answer.")]
SchemaOption = Annotated[Path | None, typer.Option(help="A JSON schema that the final answer must fit.")]
DenseOption = Annotated[
    str | None, typer.Option(help=f"{DENSE_HELP} Unless said: int8, or bf16 if small or on a card.")
]
KvOption = Annotated[str | None, typer.Option(help=f"{KV_HELP} Unless said: bf16, or f32 if small.")]


def load_model(name: str, backend: str, **kinds: Any) -> "Model":
    """Load a model, with a progress bar on a terminal; `kinds` are the keywords of `ossia.loading.load`.

    memory_gb in place of memory: GiB, as the option gives them.
    """
    with starting():
        from ossia.loading import choose_backend_for, load

    if (memory_gb := kinds.pop("memory_gb", None)) is not None:
        kinds["memory"] = int(memory_gb * 2**30)
    chosen = choose_backend_for(name, backend_named(backend), kinds.get("dense"), kinds.get("kv"))
    if chosen.reason:
        typer.secho(str(chosen), dim=True, err=True)
    if chosen.name == "cpu":
        compile_kernels(name, **{key: kinds[key] for key in ("dense", "kv", "threads") if key in kinds})
    if not sys.stderr.isatty() or name == "ossia-mini":
        model = load(name, chosen.name, **kinds)
    else:
        from rich.console import Console
        from rich.progress import Progress

        with Progress(console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task(f"loading {name}", total=None)
            model = load(name, chosen.name, lambda done, total: bar.update(task, completed=done, total=total), **kinds)
    for warning in model.warnings:
        typer.secho(f"warning: {warning}", fg="yellow", err=True)
    if model.plan:
        typer.secho(model.plan.line(), dim=True, err=True)
    return model


def tool_settings(
    tools: str | None, search: str | None, mcp: list[str] | None, sandbox: str = "auto", **programs: Any
) -> "ToolSettings":
    """The tools that the options name. programs: root, network and the like. Keys of services are environment variables."""
    from ossia.tools.choose import ToolSettings, tool_names

    names = tool_names(tools or "")
    return ToolSettings(names, search, tuple(mcp or ()), dict(os.environ), sandbox=sandbox, **programs)


def conversation_tools(given: SimpleNamespace) -> "ToolSettings":
    """The tools of a command whose programs may have a folder of the user's: `ossia chat`, `ossia mcp`."""
    programs = {"root": given.root, "network": given.network, "unsafe": given.unsafe_tools}
    return tool_settings(given.tools, given.search, given.mcp, given.sandbox, **programs)


def weight_options(given: SimpleNamespace) -> dict[str, Any]:
    """The options that say how a model is held, as `load_model` takes them."""
    return {"dense": given.dense, "kv": given.kv, "threads": given.threads, "memory_gb": given.memory_gb}


def state_folder() -> Path:
    """Where servers and chats keep what outlives them. ValueError for a user without a home, as in some containers."""
    try:
        return Path.home() / ".local" / "state" / "ossia"
    except RuntimeError as error:
        raise ValueError(
            "this user has no home folder: set HOME, or for a server give --state or --no-state"
        ) from error


def starting() -> "AbstractContextManager[None]":
    """Report on stderr while libraries are imported: the first start compiles them."""
    began = time.monotonic()
    return reported(
        lambda: f"starting: loading libraries ({time.monotonic() - began:.0f} s)",
        lambda line: typer.echo(line, err=True),
    )


def compile_kernels(name: str, **kinds: Any) -> None:
    """Compile the CPU kernels that a model needs, and say on stderr how far it is; without a word where they are on disk."""
    with starting():
        import_module("ossia.kernels.cpu.warmup")  # the longest to import: Numba
        from ossia.loading import compile_kernels as run

    if not sys.stderr.isatty():
        run(name, lambda line: typer.echo(line, err=True), **kinds)
        return
    from rich.console import Console

    with Console(stderr=True).status("") as status:
        run(name, status.update, **kinds)


def backend_named(name: str) -> "Backend | Literal['auto']":
    """The backend of this name. Raises ValueError for any other word."""
    if name not in ("auto", "cpu", "reference", "triton"):
        raise ValueError(f"backend {name!r} is none of auto, cpu, triton, reference")
    return name


@contextmanager
def training_errors() -> "Generator[None]":
    """What training cannot do is one line that says why."""
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name not in ("torch", "tokenizers"):
            raise
        fail(f"training needs {error.name}: pip install 'ossia[train]'")
    except (ValueError, OSError, MemoryError) as error:
        fail(str(error))


@contextmanager
def status_line() -> "Generator[Callable[[str], None]]":
    """Where to say what runs now: a line on the terminal, or nowhere."""
    if not sys.stderr.isatty():
        yield lambda _: None
        return
    from rich.console import Console

    with Console(stderr=True).status("") as status:
        yield status.update


def import_from_here() -> None:
    """A module that a person names may lie in the folder where the command is given."""
    if "" not in sys.path:
        sys.path.insert(0, "")


def config_of(name: str) -> "ModelConfig":
    """The configuration of a preset, or of a checkpoint that `-m` could name."""
    from ossia.hub import find
    from ossia.model.checkpoint import open_checkpoint
    from ossia.model.config import PRESETS, ModelConfig
    from ossia.recognise import hub_name

    preset = hub_name(name).removeprefix("openai/")
    if not Path(name).is_dir() and (preset in PRESETS or name.startswith("gpt-oss-")):
        return ModelConfig.preset(preset)
    return open_checkpoint(find(name)).config


def read_json(path: Path) -> dict[str, object]:
    value = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(value, dict):
        raise ValueError(f"{path} holds no JSON object")
    return value


def fail(message: str) -> NoReturn:
    typer.secho(f"error: {message}", err=True, fg="red")
    raise typer.Exit(1)
