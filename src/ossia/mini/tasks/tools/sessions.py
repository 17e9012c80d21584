"""Built-in tools inside tasks: sessions as tools to run, and an expert's calls with their real results.

In: a `ToolSession`. Out: `Tool`s that share its state, and messages. Everything runs in this process.
"""

import json
import shutil
import tempfile
import weakref
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ossia.harmony.messages import Message, System, ToolNamespace, ToolSpec, assistant, tool
from ossia.tools.background import BackgroundLoop
from ossia.tools.functions import Tool, ToolOutput
from ossia.tools.repo_browser.session import RepoBrowserSession
from ossia.tools.session import ToolSession

Files = Mapping[str, str]  # the text of each file, by path


def session_tools(session: ToolSession) -> tuple[Tool, ...]:
    """The functions of a session as tools of one answer."""
    loop, space = BackgroundLoop(), session.namespace
    return tuple(_session_tool(session, space.name, spec, loop) for spec in space.tools)


def _session_tool(session: ToolSession, namespace: str, spec: ToolSpec, loop: BackgroundLoop) -> Tool:
    async def call_async(text: str) -> ToolOutput:
        return await session.run(spec.name, text)

    return Tool(spec, lambda text: loop.run(call_async(text)), namespace, call_async)


def declared(opening: Message, namespace: ToolNamespace) -> Message:
    """A system message that also declares this namespace."""
    (content,) = opening.content
    assert isinstance(content, System)
    return Message("system", (replace(content, tools=(namespace,)),))


class ToolRecorder:
    """Calls a session's functions. messages: the calls so far, each followed by its result."""

    def __init__(self, session: ToolSession) -> None:
        self._session, self._loop = session, BackgroundLoop()
        self.messages: list[Message] = []

    def call(self, name: str, **arguments: Any) -> str:
        """The result of a call, which must succeed."""
        recipient, text = f"{self._session.namespace.name}.{name}", json.dumps(arguments)
        output = self._loop.run(self._session.run(name, text))
        if output.failed:
            raise RuntimeError(f"the call of {recipient} failed: {output.text}")
        self.messages += [assistant(text, "analysis", recipient, "code"), tool(recipient, output.text, "analysis")]
        return output.text


def folder_session(files: Files) -> RepoBrowserSession:
    """A repo_browser on a new folder with these files. The folder is removed with the session."""
    root = Path(tempfile.mkdtemp(prefix="ossia-task-"))
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "utf-8", newline="\n")
    session = RepoBrowserSession(root)
    weakref.finalize(session, shutil.rmtree, root, True)
    return session
