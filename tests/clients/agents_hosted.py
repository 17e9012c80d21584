"""openai-agents (Python) with the tools of OpenAI's platform, unchanged: those that the server runs, and those that run here.

In: base URL, model, speaker, key, home, the address of an MCP server. Out: lines of JSON (checks.py). Of ossia-mini only
an answer is expected: it knows few of the questions.
"""

import asyncio
import subprocess
import sys
from dataclasses import dataclass, field
from typing import Any

from agents import (
    Agent,
    ApplyPatchTool,
    AsyncOpenAI,
    CodeInterpreterTool,
    FileSearchTool,
    HostedMCPTool,
    ImageGenerationTool,
    LocalShellTool,
    ModelSettings,
    OpenAIResponsesModel,
    Runner,
    ShellTool,
    WebSearchTool,
    set_tracing_disabled,
)
from agents.items import ToolCallItem
from checks import Place, place_of, run, says

set_tracing_disabled(True)
CODE = {"type": "code_interpreter", "container": {"type": "auto"}}


def ask(place: Place, question: str, *tools: Any, streamed: bool, include: tuple[str, ...] = ()) -> Any:
    """The result of one run."""
    client = AsyncOpenAI(base_url=place.base_url, api_key=place.key, max_retries=0, timeout=60)
    settings = ModelSettings(temperature=0, response_include=list(include))
    model = OpenAIResponsesModel(model=place.model, openai_client=client)
    agent = Agent(name="a", model=model, model_settings=settings, tools=list(tools))

    async def go() -> Any:
        if not streamed:
            return await Runner.run(agent, question)
        result = Runner.run_streamed(agent, question)
        async for _ in result.stream_events():
            pass
        return result

    return asyncio.run(go())


def calls(result: Any) -> list[Any]:
    return [item.raw_item for item in result.new_items if isinstance(item, ToolCallItem)]


def kinds(result: Any) -> list[str]:
    return [call["type"] if isinstance(call, dict) else call.type for call in calls(result)]


def web_search(place: Place, streamed: bool):
    result = ask(place, "What is the colour of plums?", WebSearchTool(search_context_size="low"), streamed=streamed)
    says(place, result.final_output, "Plums are blue")
    if place.acted:
        search, opened = calls(result)
        assert (search.action.query, opened.action.type) == ("plums", "open_page"), result.new_items
        (cited,) = result.new_items[-1].raw_item.content[0].annotations
        assert cited.type == "url_citation", cited
        assert cited.url == opened.action.url, (cited, opened)


def code(place: Place, streamed: bool):
    include = ("code_interpreter_call.outputs",)
    question = "Run this Python: print(48213 * 7717)" if place.acted else "What is 48213 * 7717?"
    result = ask(place, question, CodeInterpreterTool(tool_config=CODE), streamed=streamed, include=include)
    says(place, result.final_output, "372059721")
    if place.acted:
        (ran,) = calls(result)
        assert ran.code == "print(48213 * 7717)", ran
        assert ran.outputs[0].logs == "372059721\n", ran
        assert ran.container_id, ran


def mcp(place: Place, streamed: bool):
    config = {"type": "mcp", "server_label": "shop", "server_url": place.mcp, "require_approval": "never"}
    result = ask(place, "Add 40 and 2 in the shop", HostedMCPTool(tool_config=config), streamed=streamed)
    says(place, result.final_output, "42")
    if place.acted:
        (called,) = calls(result)
        assert (called.type, called.name, called.error) == ("mcp_call", "add", None), called


def mcp_approval(place: Place, streamed: bool):
    """The client is asked, agrees, and the call runs in a second response."""
    seen = []

    def agree(request: Any) -> dict[str, bool]:
        seen.append(request.data.name)
        return {"approve": True}

    config = {"type": "mcp", "server_label": "shop", "server_url": place.mcp, "require_approval": "always"}
    tool = HostedMCPTool(tool_config=config, on_approval_request=agree)
    result = ask(place, "Add 40 and 2 in the shop", tool, streamed=streamed)
    says(place, result.final_output, "42")
    assert not place.acted or seen == ["add"], seen


def shell(command: list[str]) -> str:
    return subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout


def local_shell(place: Place, streamed: bool):
    ran = []

    def execute(request: Any) -> str:
        ran.append(request.data.action.command)
        return shell(request.data.action.command)

    result = ask(place, "Run this command: echo $((6 * 7))", LocalShellTool(executor=execute), streamed=streamed)
    says(place, result.final_output, "42")
    assert not place.acted or ran == [["bash", "-lc", "echo $((6 * 7))"]], ran


def shell_here(place: Place, streamed: bool):
    ran = []

    def execute(request: Any) -> str:
        ran.extend(request.data.action.commands)
        return "".join(shell(["bash", "-c", each]) for each in request.data.action.commands)

    result = ask(place, "Run this command: echo $((6 * 7))", ShellTool(executor=execute), streamed=streamed)
    says(place, result.final_output, "42")
    assert not place.acted or ran == ["echo $((6 * 7))"], ran


def shell_there(place: Place, streamed: bool):
    """In a container of the server."""
    tool = ShellTool(environment={"type": "container_auto"})
    result = ask(place, "Run this command: echo $((6 * 7))", tool, streamed=streamed)
    says(place, result.final_output, "42")
    assert not place.acted or "shell_call" in kinds(result), result.new_items


@dataclass
class Editor:
    """Keeps what it should do."""

    done: list[tuple[str, str]] = field(default_factory=list)

    def create_file(self, operation: Any) -> str:
        self.done.append((operation.path, operation.diff))
        return f"Created {operation.path}"

    def update_file(self, operation: Any) -> str:
        raise AssertionError(operation)

    delete_file = update_file


def patch(place: Place, streamed: bool):
    result = ask(place, "Make the file notes.txt", ApplyPatchTool(editor=(editor := Editor())), streamed=streamed)
    says(place, result.final_output, "Created notes.txt")
    assert not place.acted or editor.done == [("notes.txt", "+made by a patch\n")], editor.done


def others(place: Place, streamed: bool):
    """Tools that the server does not have are left out: the answer comes."""
    tools = FileSearchTool(vector_store_ids=["vs_1"]), ImageGenerationTool(tool_config={"type": "image_generation"})
    result = ask(place, "What is 12 + 30?", *tools, streamed=streamed)
    says(place, result.final_output, "42")


def together(place: Place, streamed: bool):
    """All of them in one request."""
    config = {"type": "mcp", "server_label": "shop", "server_url": place.mcp, "require_approval": "never"}
    tools = WebSearchTool(), CodeInterpreterTool(tool_config=CODE), HostedMCPTool(tool_config=config)
    result = ask(place, "Run this Python: 6 * 7", *tools, streamed=streamed)
    says(place, result.final_output, "42")
    assert not place.acted or kinds(result) == ["code_interpreter_call"], result.new_items


EVERYWHERE = {"web search": web_search, "code interpreter": code, "others are left out": others}
ACTED = {  # their declarations are longer than what ossia-mini was trained on
    "mcp": mcp,
    "mcp, with approval": mcp_approval,
    "local shell": local_shell,
    "shell": shell_here,
    "shell in a container": shell_there,
    "apply_patch": patch,
    "together": together,
}

if __name__ == "__main__":
    every = {**EVERYWHERE, **(ACTED if place_of(sys.argv).acted else {})}
    run(
        {
            f"{name}{', streamed' if streamed else ''}": (lambda place, check=check, s=streamed: check(place, s))
            for name, check in every.items()
            for streamed in (False, True)
        }
    )
