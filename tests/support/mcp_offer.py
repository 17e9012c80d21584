"""Tool sessions to offer over MCP, and a program that offers them on stdio."""

import asyncio
import json
import sys

from ossia.harmony.messages import ToolNamespace, ToolSpec
from ossia.tools.functions import ToolOutput
from ossia.tools.mcp.offer import Offer
from ossia.tools.session import Report, ToolProgress, ignore
from ossia.tools.toolset import ToolSet

sessions_made: list["Counter"] = []


class Counter:
    """Counts its calls, so that the state of a client shows."""

    namespace = ToolNamespace(
        "counter",
        "Counts.",
        (
            ToolSpec("add", "Count one more.", {"type": "object", "properties": {"by": {"type": "integer"}}}),
            ToolSpec("wait", "Wait for long."),
            ToolSpec("shout", "Write to standard output."),
        ),
    )

    def __init__(self) -> None:
        self.count, self.closed, self.cancelled = 0, False, False
        sessions_made.append(self)

    async def open(self) -> None:
        self.closed = False

    async def run(self, name: str, text: str, report: Report = ignore) -> ToolOutput:
        if name == "wait":
            report(ToolProgress("waiting", "status"))
            try:
                await asyncio.sleep(600)
            except asyncio.CancelledError:
                self.cancelled = True
                raise
        if name == "shout":
            print("THIS MUST NOT BREAK THE PROTOCOL", flush=True)
            return ToolOutput("shouted")
        self.count += json.loads(text).get("by", 1)
        return ToolOutput(str(self.count), failed=self.count > 99)

    async def close(self) -> None:
        self.closed = True


class Interpreter:
    """Takes text."""

    namespace = ToolNamespace("python", "Runs code.")

    async def open(self) -> None: ...

    async def run(self, name: str, text: str, report: Report = ignore) -> ToolOutput:
        return ToolOutput(f"ran: {text}")

    async def close(self) -> None: ...


async def answer(prompt: str, effort: str, schema: dict | None, report: Report) -> ToolOutput:
    """A model that repeats what it was asked."""
    report(ToolProgress("thinking", "status"))
    return ToolOutput(json.dumps([prompt, effort, schema]))


def offer() -> Offer:
    return Offer(lambda: ToolSet([Counter(), Interpreter()]), ask=answer)


async def main() -> None:
    from ossia.tools.mcp.serving import serve_stdio

    offered = offer()
    await offered.open()
    await serve_stdio(offered)


if __name__ == "__main__":
    print("a line on standard error", file=sys.stderr)
    asyncio.run(main())
