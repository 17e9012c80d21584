"""A real MCP server with odd tools, made with the mcp package. Run as a program it speaks stdio.

In: nothing. Out: `demo()`, a server that is served over stdio, HTTP or SSE.
"""

import asyncio
import os
import signal
import sys

from mcp.server.mcpserver import Context, MCPServer
from mcp.server.mcpserver.utilities.types import Image
from mcp_types import CallToolResult, ResourceLink, TextContent, ToolAnnotations

STARTED: list[str] = []  # what began and ended, of servers in this process


def demo() -> MCPServer:
    server = MCPServer("demo shop", instructions="Adds numbers.\x07")

    @server.tool(annotations=ToolAnnotations(read_only_hint=True))
    def add(a: int, b: int = 1, note: str | None = None) -> int:
        """Add two numbers."""
        return a + b

    @server.tool()
    def fail() -> str:
        """Always fails."""
        raise ValueError("no luck today")

    @server.tool()
    def refuse() -> CallToolResult:
        """Says that it failed."""
        return CallToolResult(content=[TextContent(type="text", text="out of stock")], is_error=True)

    @server.tool()
    async def count(steps: int, ctx: Context) -> str:
        """Report progress."""
        for step in range(steps):
            await ctx.report_progress(step + 1, steps, f"step {step + 1}")
        return "counted"

    @server.tool()
    async def wait(name: str = "wait") -> str:
        """Wait for a long time."""
        STARTED.append(f"{name} started")
        try:
            await asyncio.sleep(600)
        except BaseException:
            STARTED.append(f"{name} ended")
            raise
        return "late"

    @server.tool()
    def die() -> str:
        """End the process in the middle of a call."""
        os.kill(os.getpid(), signal.SIGKILL)

    @server.tool()
    def environment() -> dict[str, str]:
        """All environment variables."""
        return dict(os.environ)

    @server.tool()
    def process() -> int:
        """The process id."""
        return os.getpid()

    @server.tool()
    def show() -> list:
        """An image and a link."""
        link = ResourceLink(type="resource_link", name="manual", uri="file:///manual.txt")
        return ["before", Image(data=b"x" * 300, format="png"), link]

    @server.tool()
    def long(size: int) -> str:
        """A long text."""
        return "é" * size

    @server.tool(name="bad name!")
    def bad() -> str:
        """The first bad name."""
        return "first"

    @server.tool(name="bad/name?")
    def worse() -> str:
        """The second bad name."""
        return "second"

    @server.tool()
    async def grow(ctx: Context) -> str:
        """Offer one more tool."""

        def extra() -> str:
            """New."""
            return "extra"

        server.add_tool(extra)
        server.remove_tool("fail")
        await ctx.session.send_tool_list_changed()
        await ctx.notify_tools_changed()
        return "grown"

    return server


if __name__ == "__main__":
    print("starting up", file=sys.stderr)
    demo().run()
