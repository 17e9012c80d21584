"""The server's own tools in the web chat: searches, code, commands, output and plots are shown, and can be switched off."""

from pathlib import Path

import pytest

from ossia.server.core.hosted import HostedRequest, HostedSessions, MadeSessions, hosted_sessions
from ossia.tools.choose import ToolSettings
from ossia.tools.mcp.servers import operator_servers
from ossia.tools.mcp.session import McpSession
from tests.server.http.ui.page import Enter, echo
from tests.support.hosted import PICTURE, FakePython, hosted
from tests.support.mcp_http import LegacyHttp
from tests.support.mcp_http import served as mcp_served
from tests.support.turns import final, think
from tests.support.vocabularies import small
from tests.tools.sandbox.places import sandbox_or_skip

pytestmark = pytest.mark.browser


def searches(prompt: str) -> str:
    """Searches, opens the first page, and cites it."""
    if "browser.open to=assistant" in prompt:
        return final("Plums are blue【1†L3】.")
    if "browser.search to=assistant" in prompt:
        return '<|channel|>analysis to=browser.open code<|message|>{"id": 0}<|call|>'
    return think("I look.") + '<|channel|>analysis to=browser.search code<|message|>{"query": "plums"}<|call|>'


def codes(prompt: str) -> str:
    if "python to=assistant" in prompt:
        return final("Here it is.")
    return "<|channel|>analysis to=python code<|message|>plot(sum([1, 2]))\nprint(3)<|call|>"


def commands(prompt: str) -> str:
    if "container.exec to=assistant" in prompt:
        return final("Done.")
    arguments = '{"cmd": ["bash", "-lc", "echo a; echo b >&2; exit 3"]}'
    return f"<|channel|>analysis to=container.exec code<|message|>{arguments}<|call|>"


def test_searches_are_shown_with_their_pages(enter: Enter, tmp_path: Path):
    with enter(searches, hosted=hosted(tmp_path)) as (visit, actor):
        visit.button("Tools 3").wait_for()
        assert visit.ask("Which colour?") == "Plums are blue (plums.md)."
        assert visit.last.locator(".answer cite").get_attribute("title") == "corpus://plums.md"
        search, opened = visit.last.locator("details.tool").all()
        assert search.locator(".name").inner_text() == "Searched"
        assert search.locator(".brief").inner_text() == "plums"
        search.locator("summary").click()
        assert "plums.md" in search.locator(".pages").inner_text()
        assert opened.locator(".name").inner_text() == "Opened a page"
        assert "namespace browser" in actor.prompts[0]


def test_code_is_shown_with_its_output_and_plots(enter: Enter):
    python = FakePython({"plot(sum([1, 2]))\nprint(3)": "first\n3\n"})
    with enter(codes, hosted=hosted(None, python)) as (visit, _):
        visit.button("Tools 3").wait_for()
        assert visit.ask("Draw") == "Here it is."
        tool = visit.last.locator("details.tool")
        assert tool.locator(".brief").inner_text() == "plot(sum([1, 2])) → 3"
        tool.locator("summary").click()
        code, output = tool.locator("pre").all()
        assert code.inner_text() == "plot(sum([1, 2]))\nprint(3)"
        assert output.inner_text() == "first\n3"
        plot = visit.last.locator(".plots img")
        assert (plot.get_attribute("src"), plot.get_attribute("alt")) == (PICTURE, "Plot 1")
        assert plot.evaluate("image => image.decode().then(() => image.naturalWidth)") == 1
        visit.page.reload()
        visit.last.locator(".plots img").wait_for()


def test_commands_in_the_container_are_shown_with_their_output(enter: Enter):
    sandbox_or_skip()
    own = hosted_sessions(ToolSettings(tools=("shell",)), small(), 131072)
    with enter(commands, hosted=own) as (visit, actor):
        visit.button("Tools 3").wait_for()
        assert visit.ask("Run it") == "Done."
        tool = visit.last.locator("details.tool")
        assert tool.locator(".brief").inner_text() == "echo a; echo b >&2; exit 3"
        assert "failed" in (tool.get_attribute("class") or "")
        tool.locator("summary").click()
        command, output = tool.locator("pre").all()
        assert command.inner_text() == "echo a; echo b >&2; exit 3"
        assert sorted(output.inner_text().split()) == ["a", "b"]
        assert "namespace container" in actor.prompts[0]


def test_the_tools_of_the_server_can_be_switched_off(enter: Enter, tmp_path: Path):
    with enter(echo, hosted=hosted(tmp_path)) as (visit, actor):
        visit.button("Tools 3").click()
        visit.page.get_by_role("menuitemcheckbox", name="Web search").click()
        visit.page.keyboard.press("Escape")
        visit.ask("Hello")
        assert "namespace browser" not in actor.prompts[-1]
        visit.page.reload()
        visit.button("Tools 2").wait_for()


def test_a_server_without_tools_offers_none(enter: Enter):
    with enter(echo) as (visit, actor):
        visit.button("Tools 2").click()
        assert visit.page.get_by_role("menuitemcheckbox", name="Web search").count() == 0
        visit.page.keyboard.press("Escape")
        visit.ask("Hello")
        assert "namespace browser" not in actor.prompts[-1]


def test_a_page_that_a_search_names_becomes_no_script(enter: Enter, tmp_path: Path):
    """Addresses come from the web: only http, https and mailto become links."""
    item = {
        "id": "ws_1",
        "type": "web_search_call",
        "status": "completed",
        "action": {
            "type": "search",
            "query": "<b>x</b>",
            "sources": [{"url": "javascript:alert(1)"}, {"url": "https://ok.example/"}],
        },
    }
    code = {"id": "ci_1", "type": "code_interpreter_call", "status": "completed", "code": "x", "container_id": "c"}
    code["outputs"] = [{"type": "image", "url": "https://evil.example/p.png"}]  # type: ignore[assignment]
    with enter(echo) as (visit, _):
        visit.ask("Hello")
        visit.page.evaluate(
            """items => new Promise(resolve => { const o = indexedDB.open("ossia"); o.onsuccess = () => {
            const store = o.result.transaction("conversations", "readwrite").objectStore("conversations"), all = store.getAll();
            all.onsuccess = () => { const [first] = all.result;
            first.turns[0].entries.push(...items.map(item => ({ item, text: "", begun: 0, seconds: 0, done: true, failed: false })));
            store.put(first).onsuccess = () => { o.result.close(); resolve(); }; }; }; })""",
            [item, code],
        )
        visit.page.reload()
        search = visit.last.locator("details.tool").first
        search.locator("summary").click()
        assert search.locator(".brief").inner_text() == "<b>x</b>"
        assert search.locator(".pages a").evaluate_all("all => all.map(a => a.href)") == ["https://ok.example/"]
        assert visit.last.locator(".plots img").count() == 0


def shops(prompt: str) -> str:
    """Calls a tool of an MCP server, which names itself "old", and then answers."""
    if "old.echo to=assistant" in prompt and "declined" not in prompt:
        return final("It echoed.")
    if "The user declined this call" in prompt:
        return final("As you wish.")
    return '<|channel|>analysis to=old.echo code<|message|>{"a": 1}<|call|>'


@pytest.mark.parametrize(("press", "answer", "calls"), [("Allow", "It echoed.", 1), ("Deny", "As you wish.", 0)])
def test_a_call_of_an_mcp_server_asks_first(enter: Enter, press: str, answer: str, calls: int):
    app = LegacyHttp(
        tools=[{"name": "echo", "inputSchema": {"type": "object", "properties": {"a": {"type": "integer"}}}}]
    )
    with mcp_served(app, "off") as url:

        def made(request: HostedRequest) -> MadeSessions:
            return MadeSessions([McpSession(operator_servers(f"docs={url}/mcp")[0]) for _ in request.names])

        with enter(shops, hosted=HostedSessions(["mcp:docs"], made)) as (visit, _):
            visit.button("Tools 3").wait_for()
            visit.ask("Echo one")
            approval = visit.last.locator(".approval")
            assert "docs · echo" in approval.inner_text()
            assert '"a": 1' in approval.inner_text()
            assert app.methods.count("tools/call") == 0
            approval.get_by_role("button", name=press).click()
            visit.last.locator(".answer", has_text=answer).wait_for()
            visit.settled()
            assert app.methods.count("tools/call") == calls
            assert approval.get_by_role("button").count() == 0
            if calls:
                call = visit.last.locator("details.tool", has_text="docs · echo")
                assert call.locator(".brief").inner_text() == "1 → 1"
