"""The transport to an MCP server that runs as a child process: one JSON message per line on its standard streams.

In: a command and its environment. Out: the pair of streams that a session of the `mcp` package reads and writes. Unlike
the package's own transport it bounds a line, passes no variable that is not named, and kills the process group at once.
"""

import asyncio
import os
import signal
import sys
from asyncio.subprocess import Process
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import anyio
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream
from mcp.client.stdio import get_default_environment
from mcp.shared.message import SessionMessage
from mcp_types import jsonrpc_message_adapter

from ossia.tools.mcp.servers import McpServer

MAX_BAD_LINES = 100  # lines that are no message, as programs print them by mistake
STDERR_BYTES = 4_096  # kept, for the operator
EXIT_SECONDS = 1.0  # for the server to end by itself after its input is closed
TERMINATE_SECONDS = 1.0  # from SIGTERM to SIGKILL


@dataclass(slots=True)
class ProcessTrouble:
    """Why a process is of no more use. stderr: its last output, which may hold secrets of the operator."""

    reason: str | None = None
    stderr: bytearray = field(default_factory=bytearray)


@asynccontextmanager
async def stdio_transport(
    server: McpServer, max_bytes: int, trouble: ProcessTrouble
) -> AsyncGenerator[tuple[Any, Any], None]:
    """Start the server and yield its streams. At the end the process and its children are gone.

    Raises OSError if the command cannot be started.
    """
    process = await asyncio.create_subprocess_exec(
        *server.command,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=_environment(server.environment),
        cwd=server.directory,
        limit=max_bytes,
        start_new_session=sys.platform != "win32",
    )
    incoming, read_stream = anyio.create_memory_object_stream[SessionMessage | Exception](0)
    write_stream, outgoing = anyio.create_memory_object_stream[SessionMessage](0)
    tasks = [
        asyncio.create_task(each)
        for each in (
            _read(process, incoming, max_bytes, trouble),
            _write(process, outgoing),
            _keep_stderr(process, trouble),
        )
    ]
    try:
        yield read_stream, write_stream
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        try:
            await asyncio.shield(asyncio.create_task(_end(process)))
        finally:
            _signal_group(process, kill=True)  # also if the ending was cancelled
            for stream in (incoming, read_stream, write_stream, outgoing):
                stream.close()


async def _read(
    process: Process,
    incoming: MemoryObjectSendStream[SessionMessage | Exception],
    max_bytes: int,
    trouble: ProcessTrouble,
) -> None:
    """Pass on the messages of the process, until it ends or writes what cannot be read."""
    assert process.stdout
    bad = 0
    async with incoming:
        while bad <= MAX_BAD_LINES:
            try:
                line = await process.stdout.readline()
            except ValueError:
                trouble.reason = f"the server wrote a line of more than {max_bytes} bytes"
                return
            if not line:
                with suppress(TimeoutError):
                    await asyncio.wait_for(process.wait(), EXIT_SECONDS)
                trouble.reason = f"the server's process ended with exit code {process.returncode}"
                return
            if (message := _message(line)) is None:
                bad += bool(line.strip())
                continue
            try:
                await incoming.send(message)
            except (anyio.ClosedResourceError, anyio.BrokenResourceError):
                return
        trouble.reason = "the server writes lines that are no JSON-RPC messages"


async def _write(process: Process, outgoing: MemoryObjectReceiveStream[SessionMessage]) -> None:
    assert process.stdin
    async with outgoing:
        async for message in outgoing:
            text = message.message.model_dump_json(by_alias=True, exclude_unset=True)
            try:
                process.stdin.write(text.encode() + b"\n")
                await process.stdin.drain()
            except (OSError, RuntimeError):
                return


async def _keep_stderr(process: Process, trouble: ProcessTrouble) -> None:
    assert process.stderr
    while chunk := await process.stderr.read(STDERR_BYTES):
        trouble.stderr += chunk
        del trouble.stderr[:-STDERR_BYTES]


def _environment(named: Mapping[str, str]) -> dict[str, str]:
    """What a program needs to start (PATH, HOME and the like), and the variables that the operator named."""
    return {**get_default_environment(), **named}


def _message(line: bytes) -> SessionMessage | None:
    try:
        return SessionMessage(jsonrpc_message_adapter.validate_json(line, by_name=False))
    except ValueError:
        return None


async def _end(process: Process) -> None:
    """Close the input, then end the whole process group: politely, then by force. Its children go with it."""
    assert process.stdin
    with suppress(OSError, RuntimeError):
        process.stdin.close()
    draining = asyncio.create_task(_drain(process))  # a process that cannot write does not end
    for seconds, kill in ((EXIT_SECONDS, False), (TERMINATE_SECONDS, True)):
        with suppress(TimeoutError):
            await asyncio.wait_for(process.wait(), seconds)
            break
        _signal_group(process, kill)
    _signal_group(process, kill=True)  # children that outlived the server
    with suppress(TimeoutError):  # a child in a group of its own may hold the pipes open
        await asyncio.wait_for(process.wait(), EXIT_SECONDS)
    draining.cancel()
    await asyncio.wait([draining])


async def _drain(process: Process) -> None:
    """Discard what a process still writes."""

    async def discard(stream: asyncio.StreamReader | None) -> None:
        while stream and await stream.read(65_536):
            pass

    await asyncio.gather(discard(process.stdout), discard(process.stderr))


def _signal_group(process: Process, kill: bool) -> None:
    with suppress(ProcessLookupError, PermissionError):
        if sys.platform == "win32":
            process.kill()
        else:
            os.killpg(process.pid, signal.SIGKILL if kill else signal.SIGTERM)
