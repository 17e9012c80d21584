"""The options of `ossia serve`, in groups that a person can read.

In: nothing. Out: types for typer. It imports no part of the server, so that `ossia --help` stays quick.
"""

from pathlib import Path
from typing import Annotated, Any

import typer


def _option(group: str, help: str, *names: str, **more: Any) -> Any:
    return typer.Option(*names, help=help, rich_help_panel=group, **more)


_MODEL, _ADDRESS, _SECURITY = "Model", "Address", "Security"
_LIMITS, _MEMORY, _LOG = "Limits", "Memory", "Log"

Model = Annotated[str, _option(_MODEL, "A checkpoint's folder, a Hugging Face name, or ossia-mini.", "--model", "-m")]
Names = Annotated[list[str] | None, _option(_MODEL, "Another name for it (gpt-oss:20b); repeatable.", "--name")]
Backend = Annotated[str, _option(_MODEL, "cpu, triton (an NVIDIA GPU), or reference (torch, for checking).")]
Dense = Annotated[str | None, _option(_MODEL, "Weights outside the experts: int8, bf16 (as they are), or int4 (cpu).")]
Kv = Annotated[str | None, _option(_MODEL, "Keys and values: bf16; int8 or f32 (cpu); fp8 (triton).")]
Threads = Annotated[int | None, _option(_MODEL, "Threads of the CPU kernels; the physical cores.", min=1)]
MemoryGb = Annotated[
    float | None, _option(_MODEL, "GiB of memory the model may take; what is free here unless given.", min=0)
]

Identity = Annotated[
    str | None, _option(_MODEL, "First line of the system message, instead of ChatGPT's; none leaves it out.")
]
KnowledgeCutoff = Annotated[str | None, _option(_MODEL, "YYYY-MM in the system message, or none.")]
Date = Annotated[str | None, _option(_MODEL, "YYYY-MM-DD in the system message, today (the default), or none.")]

Host = Annotated[str, _option(_ADDRESS, "Where to listen; beyond this machine only with a key.")]
Port = Annotated[int, _option(_ADDRESS, "0 takes a free one.", min=0, max=65535)]

ApiKeys = Annotated[
    list[str] | None,
    _option(_SECURITY, "Only who has it may ask; repeatable.", "--api-key", envvar="OSSIA_API_KEY"),
]
Origins = Annotated[list[str] | None, _option(_SECURITY, "Web pages from there may ask; repeatable.", "--allow-origin")]
Hosts = Annotated[
    list[str] | None, _option(_SECURITY, "This machine's name behind a proxy; repeatable.", "--allow-host")
]
BehindProxy = Annotated[
    bool, _option(_SECURITY, "A proxy on this machine says who asks (X-Forwarded-For).", "--behind-proxy")
]

MaxBody = Annotated[float, _option(_LIMITS, "Megabytes of a request.", "--max-body-mb")]
MaxBodies = Annotated[float, _option(_LIMITS, "Megabytes of all requests that are being read.", "--max-bodies-mb")]
MaxConnections = Annotated[int, _option(_LIMITS, "Open connections.", min=1)]
MaxPerAddress = Annotated[
    int | None,
    _option(_LIMITS, "Open connections of one address; half of all.", "--max-connections-per-address", min=1),
]
WriteSeconds = Annotated[float, _option(_LIMITS, "A client that reads nothing for so long is disconnected.")]
MaxRunning = Annotated[int, _option(_LIMITS, "Answers at a time.")]
MaxWaiting = Annotated[int, _option(_LIMITS, "Answers that may wait; more are told to come back (429).")]
AnswerSeconds = Annotated[float, _option(_LIMITS, "After so long an answer is cut.")]
DrainSeconds = Annotated[float, _option(_LIMITS, "When told to stop, wait so long for answers under way.")]

CacheGb = Annotated[
    float | None,
    _option(
        _MEMORY, "Gigabytes for keys and values; one whole context, and 2 where that is less; on a card, what is left."
    ),
]
PrefixGb = Annotated[float, _option(_MEMORY, "Gigabytes of these kept for prompts that begin alike.")]
State = Annotated[Path | None, _option(_MEMORY, "Folder where responses are kept; ~/.local/state/ossia.")]
StateGb = Annotated[float, _option(_MEMORY, "Gigabytes of them at most.")]
StateDays = Annotated[float, _option(_MEMORY, "And for so many days after their last use.")]
NoState = Annotated[bool, _option(_MEMORY, "Keep nothing.", "--no-state")]

Quiet = Annotated[bool, _option(_LOG, "No line for each request.", "--quiet")]
LogPrompts = Annotated[bool, _option(_LOG, "Write what is asked and answered.", "--log-prompts")]
