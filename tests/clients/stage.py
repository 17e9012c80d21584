"""A server as `ossia serve` starts it, with the actor for an engine: for clients that want more than ossia-mini.

In: a port, a folder for state, API keys, and the tools that requests may use. Out: a process that serves until it is told to stop.
It does not know which client asks.
"""

import argparse
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

from ossia.server.core.service import Service
from ossia.server.run import serve
from ossia.server.settings import Settings
from ossia.tools.choose import ToolSettings, tool_names
from tests.clients.part import part
from tests.support.engine import ScriptedEngine, scripted_model
from tests.support.vocabularies import o200k

NAME, CONTEXT = "gpt-oss-20b", 131072


def main() -> None:
    wanted = argparse.ArgumentParser(description=__doc__)
    wanted.add_argument("--port", type=int, required=True)
    wanted.add_argument("--state", type=Path, required=True)
    wanted.add_argument("--api-key", action="append", default=[])
    wanted.add_argument("--tools", default="")
    wanted.add_argument("--search")
    wanted.add_argument("--mcp-allow", action="append", default=[])
    given = wanted.parse_args()
    settings = Settings(
        names=("gpt-oss:20b",),
        port=given.port,
        state=given.state,
        api_keys=tuple(given.api_key),
        tools=ToolSettings(tool_names(given.tools), given.search, mcp_hosts=tuple(given.mcp_allow)),
    )
    with patch.object(
        Service, "_engine", lambda _: ScriptedEngine(part, o200k(), obeys=True, cache_tokens=CONTEXT, context=CONTEXT)
    ):
        serve(
            lambda: scripted_model(o200k(), NAME, CONTEXT),
            replace(settings, log_requests=False),
            lambda said: print(said, flush=True),
        )


if __name__ == "__main__":
    main()
