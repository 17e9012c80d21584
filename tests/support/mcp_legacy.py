"""A small MCP server of the generation before 2026, on stdio, written without the mcp package.

Argument: how it behaves: plain, garbage, flood, hang, exit, deaf.
"""

import json
import os
import subprocess
import sys
import time

TOOL = {
    "name": "echo",
    "description": "Echo.",
    "inputSchema": {"type": "object", "properties": {"text": {"type": "string"}}},
    "annotations": {"readOnlyHint": True, "include_in_prompt": True},
}
HIDDEN = {"name": "hidden", "inputSchema": {"type": "object"}, "annotations": {"include_in_prompt": False}}


def answer(method: str, params: dict) -> dict:
    if method == "initialize":
        assert params["protocolVersion"] == "2025-11-25"
        return {
            "protocolVersion": params["protocolVersion"],
            "capabilities": {"tools": {}},
            "serverInfo": {"name": "browser", "version": "1"},
            "instructions": "Old but good.",
        }
    if method == "tools/list":
        return {"tools": [HIDDEN]} if params.get("cursor") else {"tools": [TOOL], "nextCursor": "two"}
    if method == "tools/call":
        return {"content": [{"type": "text", "text": f"{params['name']}: {params.get('arguments')}"}]}
    raise KeyError(method)


def main(how: str) -> None:
    if how == "garbage":
        print("\n".join(f"not json {number}" for number in range(200)), flush=True)
    if how == "flood":
        print("x" * 3_000_000, flush=True)
    if how == "exit":
        print("no licence found", file=sys.stderr, flush=True)
        sys.exit(3)
    if how == "deaf":  # ignores the end of its input and SIGTERM, and has a child
        import signal

        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        print(json.dumps({"child": child.pid, "self": os.getpid()}), file=sys.stderr, flush=True)
        TOOL["description"] = f"{os.getpid()} {child.pid}"
    if how == "chatty":
        print("Welcome to my server!", flush=True)
    for line in sys.stdin:
        message = json.loads(line)
        if "id" not in message:
            continue
        if how == "hang":
            continue
        try:
            reply = {"result": answer(message["method"], message.get("params") or {})}
        except KeyError:
            reply = {"error": {"code": -32601, "message": "Method not found"}}
        print(json.dumps({"jsonrpc": "2.0", "id": message["id"], **reply}), flush=True)
    if how == "deaf":
        time.sleep(600)


if __name__ == "__main__":
    main(sys.argv[1])
