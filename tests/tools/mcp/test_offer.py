"""What Ossia offers to other programs: names, schemas, and the tools of each client."""

import asyncio
import json

import pytest

from ossia.harmony.messages import ToolNamespace, ToolSpec
from ossia.tools.functions import ToolOutput, function_tool
from ossia.tools.mcp.offer import Offer, offered_tools
from ossia.tools.session import ToolProgress, ToolUnavailableError, ignore
from ossia.tools.toolset import ToolSet
from tests.support.mcp_offer import Counter, Interpreter, answer, sessions_made


def test_tools_of_a_namespace_are_named_after_it():
    space = ToolNamespace("browser", "For browsing.", (ToolSpec("search", "Searches.", {"type": "object"}),))
    (tool,) = offered_tools([space])
    assert tool.name == "browser_search"
    assert tool.description == "For browsing.\n\nSearches."
    assert tool.recipient == "browser.search"


def test_a_namespace_without_tools_takes_text():
    (tool,) = offered_tools([ToolNamespace("python", "Runs code.")])
    assert (tool.name, tool.free) == ("python", "code")
    assert tool.schema == {"type": "object", "properties": {"code": {"type": "string"}}, "required": ["code"]}


def test_names_are_different():
    spaces = [ToolNamespace("a", None, (ToolSpec("b_c", ""),)), ToolNamespace("a_b", None, (ToolSpec("c", ""),))]
    assert [tool.name for tool in offered_tools(spaces)] == ["a_b_c", "a_b_c_2"]


def test_each_client_has_its_own_state():
    async def run():
        offer = Offer(lambda: ToolSet([Counter()]))
        await offer.open()
        for client, number in (("a", 1), ("a", 2), ("b", 1), ("a", 3), (None, 1), (None, 1)):
            assert (await offer.call(client, "counter_add", {}, ignore)).text == str(number)
        await offer.close_client("a")
        assert (await offer.call("a", "counter_add", {}, ignore)).text == "1"
        await offer.close()

    sessions_made.clear()
    asyncio.run(run())
    assert all(session.closed for session in sessions_made)


def test_text_reaches_a_tool_that_takes_text():
    async def run():
        offer = Offer(lambda: ToolSet([Interpreter()]))
        await offer.open()
        assert (await offer.call("a", "python", {"code": "1 + 1"}, ignore)).text == "ran: 1 + 1"
        output = await offer.call("a", "python", {"source": "1"}, ignore)
        assert output == ToolOutput("error: python needs the argument 'code', a string", failed=True)
        await offer.close()

    asyncio.run(run())


def test_functions_are_offered_too():
    def double(number: int) -> int:
        """Double a number."""
        return 2 * number

    async def triple(number: int) -> int:
        """Triple a number."""
        return 3 * number

    async def run():
        offer = Offer(functions=[function_tool(double), function_tool(triple)])
        await offer.open()
        assert [tool.name for tool in offer.tools] == ["double", "triple"]
        assert (await offer.call("a", "double", {"number": 21}, ignore)).text == "42"
        assert (await offer.call("a", "triple", {"number": 14}, ignore)).text == "42"
        assert (await offer.call("a", "double", {"number": "x"}, ignore)).failed

    asyncio.run(run())


def test_idle_clients_are_closed():
    now = 0.0

    async def run():
        nonlocal now
        offer = Offer(lambda: ToolSet([Counter()]), idle_seconds=10, clock=lambda: now)
        await offer.open()
        await offer.call("a", "counter_add", {}, ignore)
        now = 5.0
        await offer.call("b", "counter_add", {}, ignore)
        now = 12.0
        await offer.close_idle()
        assert (await offer.call("a", "counter_add", {}, ignore)).text == "1"
        assert (await offer.call("b", "counter_add", {}, ignore)).text == "2"
        await offer.close()

    asyncio.run(run())


def test_the_client_that_was_idle_longest_makes_room():
    now = 0.0

    async def run():
        nonlocal now
        offer = Offer(lambda: ToolSet([Counter()]), max_clients=2, clock=lambda: now)
        await offer.open()
        for client in "abac":  # c takes the place of b
            now += 1
            await offer.call(client, "counter_add", {}, ignore)
        assert (await offer.call("a", "counter_add", {}, ignore)).text == "3"
        waiting = [asyncio.create_task(offer.call(client, "counter_wait", {}, ignore)) for client in "ac"]
        await asyncio.sleep(0.05)
        output = await offer.call("d", "counter_add", {}, ignore)
        assert output.failed
        assert "in use by other clients" in output.text
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        await offer.close()

    asyncio.run(run())


def test_a_tool_that_cannot_run_is_an_error_and_not_its_output():
    class Broken(Counter):
        async def run(self, name, text, report=ignore):
            raise ToolUnavailableError("the sandbox is gone")

    async def run():
        offer = Offer(lambda: ToolSet([Broken()]))
        await offer.open()
        output = await offer.call("a", "counter_add", {}, ignore)
        assert output == ToolOutput("error: this tool cannot be used now: the sandbox is gone", failed=True)
        await offer.close()

    asyncio.run(run())


def test_the_model_is_a_tool():
    async def run():
        offer = Offer(ask=answer)
        await offer.open()
        assert [tool.name for tool in offer.tools] == ["ask"]
        seen: list[ToolProgress] = []
        arguments = {"prompt": "Why?", "effort": "high", "schema": {"type": "object"}}
        output = await offer.call("a", "ask", arguments, seen.append)
        assert json.loads(output.text) == ["Why?", "high", {"type": "object"}]
        assert seen == [ToolProgress("thinking", "status")]

    asyncio.run(run())


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({}, "needs the argument 'prompt'"),
        ({"prompt": 3}, "needs the argument 'prompt'"),
        ({"prompt": "x" * 1_000_001}, "longer than 1000000"),
        ({"prompt": "x", "effort": "huge"}, "effort must be one of low, medium, high"),
        ({"prompt": "x", "schema": "object"}, "schema must be a JSON schema"),
    ],
)
def test_wrong_arguments_of_ask_say_what_is_wrong(arguments: dict, reason: str):
    async def run():
        offer = Offer(ask=answer)
        await offer.open()
        output = await offer.call("a", "ask", arguments, ignore)
        assert output.failed
        assert reason in output.text

    asyncio.run(run())


def test_an_offer_of_nothing_is_an_error():
    with pytest.raises(ValueError, match="nothing to offer: give a model, tools, or both"):
        asyncio.run(Offer().open())
