"""Claude Code, the command line: text, a command, a prompt too long, a wrong key.

In: base URL, model, speaker, key, home. Out: lines of JSON (checks.py). Its prompt has about 10,000 tokens, so it is run
with the actor. Anything that it would send elsewhere goes to a closed port.
"""

import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

from checks import Place, ran, run

NOWHERE = "http://127.0.0.1:9"
QUESTION = "What is 12 + 30?"


def claude(place: Place, question: str, *options: str, key: str | None = None) -> tuple[dict[str, Any], str | None]:
    """One `claude -p` in a fresh folder, with a home of its own: its result, and the file made.txt."""
    with tempfile.TemporaryDirectory() as home, tempfile.TemporaryDirectory() as work:
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": home,
            "ANTHROPIC_BASE_URL": place.base_url.removesuffix("/v1"),
            "ANTHROPIC_AUTH_TOKEN": key or place.key,
            "ANTHROPIC_MODEL": place.model,
            "ANTHROPIC_DEFAULT_HAIKU_MODEL": place.model,
            "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
            "DISABLE_AUTOUPDATER": "1",
            "DISABLE_TELEMETRY": "1",
            "DISABLE_ERROR_REPORTING": "1",
            "HTTP_PROXY": NOWHERE,
            "HTTPS_PROXY": NOWHERE,
            "NO_PROXY": "127.0.0.1",
        }
        program = str(Path(place.home, "node_modules", ".bin", "claude"))
        done = ran([program, "-p", "--output-format", "json", *options], environment, work, question)
        made = Path(work, "made.txt")
        lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
        assert lines, f"{done.stdout[-1500:]}\n{done.stderr[-1500:]}"
        return json.loads(lines[-1]), made.read_text("utf-8") if made.exists() else None


def text(place: Place):
    """The size of the prompt is known from the first event on, and is what Claude Code reports."""
    said, _ = claude(place, QUESTION)
    assert "42" in said["result"], said
    usage = said["modelUsage"][place.model]
    assert usage["inputTokens"] + usage["cacheReadInputTokens"] + usage["cacheCreationInputTokens"] > 5000, usage
    return usage


def tool(place: Place):
    """A real command, and the thinking before it back in the next prompt."""
    said, made = claude(place, "Run this command: echo $((6 * 7)) > made.txt; cat made.txt", "--allowedTools", "Bash")
    assert "42" in said["result"], said
    assert "(thinking kept)" in said["result"], said["result"]
    assert made == "42\n"
    return said["result"]


def too_long(place: Place):
    """C1: it knows what is wrong, and says so."""
    said, _ = claude(place, "word and word again " * 60_000)
    assert "prompt is too long" in said["result"].lower(), said
    return said["result"]


def wrong_key(place: Place):
    """C3: one request and an answer, not minutes of retries in silence."""
    if place.speaker == "open":
        return "no key is wanted"
    started = time.monotonic()
    said, _ = claude(place, QUESTION, key="a-wrong-key")
    assert said["is_error"], said
    assert said["api_error_status"] == 401, said
    seconds = time.monotonic() - started
    assert seconds < 60, seconds
    return said["result"]


if __name__ == "__main__":
    run({"text": text, "a command": tool, "a prompt too long": too_long, "a wrong key": wrong_key})
