"""The options of `ossia serve`, as typer types, in groups. Imports no part of the server, so `ossia --help` is fast."""

from pathlib import Path
from typing import Annotated, Any

import typer


def _option(group: str, help: str, *names: str, **more: Any) -> Any:
    return typer.Option(*names, help=help, rich_help_panel=group, **more)


_MODEL, _ADDRESS, _SECURITY = "Model", "Address", "Security"
_LIMITS, _MEMORY, _LOG, _TOOLS = "Limits", "Memory", "Log", "Tools"

Model = Annotated[str, _option(_MODEL, "A checkpoint's folder, a Hugging Face name, or ossia-mini.", "--model", "-m")]
Names = Annotated[
    list[str] | None, _option(_MODEL, "Another name of the model for clients (gpt-oss:20b). Repeatable.", "--name")
]
Backend = Annotated[
    str,
    _option(
        _MODEL, "auto (a GPU that can run the model, else cpu), cpu, triton (an NVIDIA GPU), or reference (torch)."
    ),
]
Dense = Annotated[str | None, _option(_MODEL, "Weights outside the experts: int8, bf16 (as they are), or int4 (cpu).")]
Kv = Annotated[str | None, _option(_MODEL, "Keys and values: bf16; int8 or f32 (cpu); fp8 (triton).")]
Threads = Annotated[int | None, _option(_MODEL, "Threads of the CPU kernels; default: the physical cores.", min=1)]
MemoryGb = Annotated[
    float | None, _option(_MODEL, "GiB of memory that the model may use; default: what is free.", min=0)
]

Identity = Annotated[
    str | None, _option(_MODEL, "First line of the system message, instead of ChatGPT's; none omits it.")
]
KnowledgeCutoff = Annotated[str | None, _option(_MODEL, "YYYY-MM in the system message, or none.")]
Date = Annotated[str | None, _option(_MODEL, "YYYY-MM-DD in the system message, today (the default), or none.")]

Host = Annotated[str, _option(_ADDRESS, "Address to listen on. Other than loopback needs --api-key.")]
Port = Annotated[int, _option(_ADDRESS, "Port to listen on; 0 takes a free one.", min=0, max=65535)]

ApiKeys = Annotated[
    list[str] | None,
    _option(_SECURITY, "API key that clients must send. Repeatable.", "--api-key", envvar="OSSIA_API_KEY"),
]
Origins = Annotated[
    list[str] | None, _option(_SECURITY, "Origin of web pages that may send requests. Repeatable.", "--allow-origin")
]
Hosts = Annotated[
    list[str] | None,
    _option(_SECURITY, "Host name that requests may use, such as behind a proxy. Repeatable.", "--allow-host"),
]
BehindProxy = Annotated[
    bool, _option(_SECURITY, "Take client addresses from a local proxy's X-Forwarded-For.", "--behind-proxy")
]

MaxBody = Annotated[float, _option(_LIMITS, "Maximum megabytes of a request body.", "--max-body-mb")]
MaxTotalBody = Annotated[
    float, _option(_LIMITS, "Maximum megabytes of all bodies that are being read.", "--max-total-body-mb")
]
MaxConnections = Annotated[int, _option(_LIMITS, "Maximum open connections.", min=1)]
MaxPerAddress = Annotated[
    int | None,
    _option(
        _LIMITS,
        "Maximum open connections of one address; default: half of all.",
        "--max-connections-per-address",
        min=1,
    ),
]
WriteTimeout = Annotated[float, _option(_LIMITS, "Seconds after which a client that reads nothing is disconnected.")]
MaxNumSeqs = Annotated[int, _option(_LIMITS, "Maximum answers generated at the same time.")]
MaxQueued = Annotated[int, _option(_LIMITS, "Maximum queued requests; further requests get 429.")]
QueueTimeout = Annotated[float, _option(_LIMITS, "Maximum seconds that a request waits in the queue.", min=0)]
RequestTimeout = Annotated[float, _option(_LIMITS, "Seconds after which an answer is truncated.")]
ShutdownTimeout = Annotated[float, _option(_LIMITS, "Seconds that running answers have to finish at shutdown.")]

KvCacheGb = Annotated[
    float | None,
    _option(
        _MEMORY, "Gigabytes of the KV cache; default: one whole context, at least 2; on a GPU, what the weights leave."
    ),
]
PrefixCacheGb = Annotated[float, _option(_MEMORY, "Gigabytes of the KV cache for reusable prompt prefixes.")]
State = Annotated[Path | None, _option(_MEMORY, "Folder of stored responses; default: ~/.local/state/ossia.")]
StateGb = Annotated[float, _option(_MEMORY, "Maximum gigabytes of stored responses.")]
StateDays = Annotated[float, _option(_MEMORY, "Days after the last use until a stored response is deleted.")]
NoState = Annotated[bool, _option(_MEMORY, "Store no responses.", "--no-state")]

Quiet = Annotated[bool, _option(_LOG, "Do not log requests.", "--quiet")]
LogPrompts = Annotated[bool, _option(_LOG, "Log prompts and answers.", "--log-prompts")]

Tools = Annotated[
    str | None,
    _option(_TOOLS, "Tools that requests may use, with commas: python, browser, shell, mcp, mcp:NAME.", "--tools"),
]
Search = Annotated[
    str | None, _option(_TOOLS, "What the browser searches: corpus:FOLDER, exa, you, searxng:URL, replay:FILE.")
]
Mcp = Annotated[
    list[str] | None,
    _option(_TOOLS, "MCP server: NAME=URL, NAME=COMMAND, or a .json file with mcpServers. Repeatable.", "--mcp"),
]
McpAllow = Annotated[
    list[str] | None,
    _option(
        _TOOLS, "Host of MCP servers that requests may name: HOST, HOST:PORT, *.DOMAIN or *. Repeatable.", "--mcp-allow"
    ),
]
Sandbox = Annotated[
    str, _option(_TOOLS, "Form of the sandbox of python and the shell: auto, root, user or landlock.", "--sandbox")
]
ToolNetwork = Annotated[
    bool, _option(_TOOLS, "Programs of python and the shell may use the network.", "--tool-network")
]
UnsafeTools = Annotated[
    bool, _option(_TOOLS, "Run python and the shell without a sandbox, with the server's rights.", "--unsafe-tools")
]
