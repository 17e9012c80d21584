"""Which MCP servers an operator and a request may name."""

import json

import pytest

from ossia.tools.mcp.approval import ToolFilter
from ossia.tools.mcp.servers import operator_servers, request_server

TOOL = {"type": "mcp", "server_label": "shop", "server_url": "https://shop.example/mcp"}


def test_an_operator_names_a_url_or_a_command():
    (web,) = operator_servers("docs=https://docs.example/mcp")
    assert (web.label, web.transport, web.url) == ("docs", "http", "https://docs.example/mcp")
    (old,) = operator_servers("docs=sse+http://127.0.0.1:9/sse")
    assert (old.transport, old.url) == ("sse", "http://127.0.0.1:9/sse")
    (process,) = operator_servers("files=npx -y 'my server' --root /data")
    assert process.command == ("npx", "-y", "my server", "--root", "/data")
    assert not process.environment
    assert not process.from_request


def test_a_file_names_servers_as_other_clients_do(tmp_path):
    path = tmp_path / "servers.json"
    entries = {
        "files": {
            "command": "npx",
            "args": ["-y", "server"],
            "env": {"TOKEN": "${MY_TOKEN}", "MODE": "x"},
            "cwd": "/tmp",
        },
        "web": {"url": "https://web.example/mcp", "headers": {"Authorization": "Bearer ${MY_TOKEN}"}},
        "old": {"type": "sse", "url": "https://old.example/sse", "allowedTools": ["a"], "requireApproval": "always"},
    }
    path.write_text(json.dumps({"mcpServers": entries}))
    files, web, old = operator_servers(str(path), {"MY_TOKEN": "s3cret", "OTHER": "no"})
    assert files.environment == {"TOKEN": "s3cret", "MODE": "x"}
    assert files.directory == "/tmp"
    assert web.headers == {"Authorization": "Bearer s3cret"}
    assert old.transport == "sse"
    assert old.allowed_tools == ToolFilter(names=frozenset({"a"}))
    assert old.approval.default == "always"
    assert "s3cret" not in repr([files, web, old])
    with pytest.raises(ValueError, match="needs the environment variable MY_TOKEN; it is not set"):
        operator_servers(str(path), {})


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("docs", "write NAME=URL, NAME=COMMAND"),
        ("docs=", "write NAME=URL, NAME=COMMAND"),
        ("my docs=https://a.example", "'my docs' must be 1 to 64 letters"),
        ("docs=http://", "must be an http or https URL"),
        ("docs=https://user:pass@a.example/", "must not contain a user name"),
    ],
)
def test_malformed_options_say_what_to_write(spec: str, message: str):
    with pytest.raises(ValueError, match=message):
        operator_servers(spec)


@pytest.mark.parametrize(
    "content", ["[]", "{}", '{"mcpServers": 3}', "nonsense", '{"mcpServers": {"a": {"args": []}}}']
)
def test_malformed_files_are_errors(content: str, tmp_path):
    (tmp_path / "servers.json").write_text(content)
    with pytest.raises(ValueError, match=r"mcpServers|MCP server"):
        operator_servers(str(tmp_path / "servers.json"))


def test_a_request_names_a_server_of_an_allowed_host():
    server = request_server({**TOOL, "authorization": "abc", "headers": {"X-Team": "a"}}, ["shop.example"])
    assert server.headers == {"X-Team": "a", "Authorization": "Bearer abc"}
    assert server.from_request
    assert server.approval.default == "always"
    assert "abc" not in repr(server)
    assert "shop.example/mcp" not in repr(server)


@pytest.mark.parametrize("allowed", [[], ["other.example"], ["shop.example:8443"], ["*.shop.example"], ["example"]])
def test_a_host_that_is_not_allowed_is_refused(allowed: list[str]):
    with pytest.raises(ValueError, match=r"does not connect to 'shop\.example'; its operator must allow the host"):
        request_server(TOOL, allowed)


@pytest.mark.parametrize("allowed", ["*", "shop.example", "SHOP.example", "shop.example:443", "*.example"])
def test_hosts_can_be_allowed_by_pattern(allowed: str):
    assert request_server(TOOL, [allowed]).url == TOOL["server_url"]


def test_only_a_host_that_is_named_whole_may_be_private():
    local = {**TOOL, "server_url": "http://localhost:9000/mcp"}
    assert request_server(local, ["localhost:9000"]).private_hosts == {"localhost:9000"}
    assert not request_server(local, ["*"]).private_hosts


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"server_label": "a b"}, "server_label"),
        ({"server_label": None}, "server_label"),
        ({"server_url": None}, "server_url is missing"),
        ({"server_url": "file:///etc/passwd"}, "http or https"),
        ({"server_url": "https://u:p@shop.example/"}, "user name"),
        ({"server_url": "https://shop.example:99999/"}, "not a valid URL"),
        ({"server_url": "https://shop.example/ x"}, "spaces"),
        ({"connector_id": "connector_gmail"}, "connector_id is not supported"),
        ({"headers": {"Host": "other"}}, "header Host cannot be set"),
        ({"headers": {"Mcp-Session-Id": "other"}}, "cannot be set"),
        ({"headers": {"X-A": "a\r\nX-B: b"}}, "header X-A has characters"),
        ({"headers": {"X A": "a"}}, "header names"),
        ({"headers": {"X": 3}}, "strings"),
        ({"headers": {f"X-{number}": "a" for number in range(40)}}, "at most 32 headers"),
        ({"authorization": ""}, "non-empty string"),
        ({"authorization": "a\nb"}, "header Authorization has characters"),
    ],
)
def test_malformed_fields_of_a_request_are_errors(change: dict, message: str):
    with pytest.raises(ValueError, match=message):
        request_server({**TOOL, **change}, ["*"])
