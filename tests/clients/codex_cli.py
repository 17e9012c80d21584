"""Codex, the command line: `codex exec` with a provider of one's own, and `--oss` as with Ollama and LM Studio.

In: base URL, model, speaker, key, home. Out: lines of JSON (checks.py). Its prompt of 40 KB wants a model with a long
context, so it is run with the actor; with --oss it can send no key, so that is asked of a server without keys.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

from checks import Place, place_of, ran, run

SCHEMA = {
    "type": "object",
    "properties": {"answer": {"type": "integer"}},
    "required": ["answer"],
    "additionalProperties": False,
}
QUESTION = "What is 12 + 30?"


class Said(NamedTuple):
    last: str
    events: list[dict[str, object]]
    out: str
    written: str | None = None


def program(place: Place) -> str:
    return str(Path(place.home, "node_modules", ".bin", "codex"))


def codex(
    place: Place, question: str, *options: str, as_json: bool = True, files: dict[str, str] | None = None
) -> Said:
    """One `codex exec` in a fresh folder, with a home of its own."""
    with tempfile.TemporaryDirectory() as home, tempfile.TemporaryDirectory() as work:
        config = f"""
model = "{place.model}"
model_provider = "local"
[model_providers.local]
name = "local"
base_url = "{place.base_url}"
wire_api = "responses"
env_key = "LOCAL_KEY"
"""
        Path(home, "config.toml").write_text(config, "utf-8")
        for name, text in (files or {}).items():
            Path(work, name).write_text(text, "utf-8")
        last = Path(home, "last.txt")
        words = [
            program(place),
            "exec",
            "--skip-git-repo-check",
            "-C",
            work,
            "-o",
            str(last),
        ]
        words += [*(["--json"] if as_json else []), *options, question]
        environment = {
            **os.environ,
            "CODEX_HOME": home,
            "HOME": home,
            "LOCAL_KEY": place.key,
            "CODEX_OSS_BASE_URL": place.base_url,
        }
        done = ran(words, environment, work)
        assert done.returncode == 0, f"{done.stdout[-1500:]}\n{done.stderr[-1500:]}"
        events = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")] if as_json else []
        written = Path(work, "made.txt")
        return Said(
            last.read_text("utf-8"),
            events,
            done.stdout + done.stderr,
            written.read_text("utf-8") if written.exists() else None,
        )


def text(place: Place):
    said = codex(place, QUESTION)
    assert "42" in said.last, said
    usage = [event["usage"] for event in said.events if event.get("type") == "turn.completed"]
    assert usage, said.events
    return usage


def reasoning(place: Place):
    said = codex(place, QUESTION, "-c", "show_raw_agent_reasoning=true", as_json=False)
    assert "Adding two numbers is easy." in said.out, said.out[-1500:]


def tool(place: Place):
    """A real command, in Codex's own sandbox, and the thinking before it back in the next prompt."""
    said = codex(place, "Run this command: echo $((6 * 7)) > made.txt; cat made.txt", "-s", "workspace-write")
    assert "42" in said.last, said
    assert "(thinking kept)" in said.last, said.last
    assert said.written == "42\n", said
    return said.last


def web_search(place: Place):
    """The server searches and opens a page; Codex shows both."""
    said = codex(place, "What is the colour of plums?", "-c", 'web_search="live"')
    assert "Plums are blue" in said.last, said
    items = [event["item"] for event in said.events if event.get("type") == "item.completed"]
    assert [each["type"] for each in items].count("web_search") == 2, items


def patch_as_command(place: Place):
    """Codex applies a patch that is the input of a command named apply_patch."""
    said = codex(place, "Make the file made.txt", "-s", "workspace-write")
    assert said.written == "made by a patch\n", said


def patch_as_tool(place: Place):
    """A model whose entry in the catalogue says so has apply_patch as a custom tool with a grammar."""
    shown = subprocess.run(
        [program(place), "debug", "models", "--bundled"], capture_output=True, text=True, timeout=60, check=True
    ).stdout
    entry = next(each for each in json.loads(shown)["models"] if each.get("tool_mode") is None)
    entry |= {"slug": place.model, "apply_patch_tool_type": "freeform"}
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump({"models": [entry]}, file)
        file.flush()
        catalogue = f'model_catalog_json="{file.name}"'
        said = codex(place, "Make the file made.txt with a tool", "-s", "workspace-write", "-c", catalogue)
    assert said.written == "made by a patch\n", said
    changed = [event["item"] for event in said.events if event.get("type") == "item.completed"]
    assert "file_change" in [each["type"] for each in changed], changed


def structured(place: Place):
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(SCHEMA, file)
        file.flush()
        said = codex(place, QUESTION, "--output-schema", file.name)
    assert json.loads(said.last) == {"answer": 42}, said.last


def oss(place: Place, provider: str):
    said = codex(
        place,
        QUESTION,
        "--oss",
        "--local-provider",
        provider,
        "-m",
        "gpt-oss:20b" if provider == "ollama" else place.model,
        as_json=False,
    )
    assert "42" in said.last, said
    assert "Adding two numbers is easy." in said.out, said.out[-1500:]


EXEC = {
    "exec": text,
    "exec, raw reasoning": reasoning,
    "exec, a command in its sandbox": tool,
    "exec, output schema": structured,
    "exec, web search": web_search,
    "exec, a patch as a command": patch_as_command,
    "exec, a patch as a custom tool": patch_as_tool,
}
OSS = {
    "--oss, as Ollama": lambda place: oss(place, "ollama"),
    "--oss, as LM Studio": lambda place: oss(place, "lmstudio"),
}

if __name__ == "__main__":
    run(OSS if place_of(sys.argv).speaker == "open" else EXEC)
