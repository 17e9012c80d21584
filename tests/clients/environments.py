"""Each client's own environment: a venv or an npm folder under one cache folder, made once and kept.

In: a client's name. Out: its folder and how its checks are started. It does not know servers or what is checked.
Versions are pinned here, and nowhere else.
"""

import json
import os
import subprocess
import sys
import venv
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent


@dataclass(frozen=True, slots=True)
class Client:
    """kind "pip" or "npm"; script: the file of its checks, beside this one; environment: whose it shares."""

    name: str
    kind: str
    packages: tuple[str, ...]
    script: str
    environment: str | None = None


AGENTS = ("openai-agents==0.24.0", "openai==3.57.0")
AI_SDK = (
    "ai@7.0.173",
    "@ai-sdk/openai@4.0.118",
    "@ai-sdk/anthropic@4.0.105",
    "@ai-sdk/openai-compatible@3.0.92",
    "zod@4.6.7",
)
CLIENTS = (
    Client("openai-python", "pip", ("openai==3.57.0",), "openai_python.py"),
    Client("openai-node", "npm", ("openai@7.57.0", "zod@4.6.7"), "openai_node.mjs"),
    Client("agents-python", "pip", AGENTS, "agents_python.py"),
    Client("agents-hosted", "pip", AGENTS, "agents_hosted.py", "agents-python"),
    Client("agents-node", "npm", ("@openai/agents@0.20.0", "openai@7.57.0", "zod@4.6.7"), "agents_node.mjs"),
    Client("llm", "pip", ("llm==0.36", "openai==3.57.0"), "llm_cli.py"),
    Client("anthropic-python", "pip", ("anthropic==2.14.0",), "anthropic_python.py"),
    Client("litellm", "pip", ("litellm==1.110.2",), "litellm_python.py"),
    Client("aider", "pip", ("aider-chat==0.86.2",), "aider_cli.py"),
    Client("ai-sdk", "npm", AI_SDK, "ai_sdk.mjs"),
    Client("ai-sdk-hosted", "npm", AI_SDK, "ai_sdk_hosted.mjs", "ai-sdk"),
    Client("claude-code", "npm", ("@anthropic-ai/claude-code@2.1.332",), "claude_code.py"),
    Client("codex", "npm", ("@openai/codex@0.169.0",), "codex_cli.py"),
)


def cache_folder() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "ossia" / "clients"


def prepare(client: Client, cache: Path) -> Path:
    """Its folder, made where it is missing or was made for other versions."""
    home = cache / (client.environment or client.name)
    stamp = home / "made-for.json"
    wanted = json.dumps([client.packages, sys.version_info[:2] if client.kind == "pip" else None])
    if not stamp.exists() or stamp.read_text("utf-8") != wanted:
        home.mkdir(parents=True, exist_ok=True)
        (_make_venv if client.kind == "pip" else _make_npm)(home, client.packages)
        stamp.write_text(wanted, "utf-8")
    if client.kind == "npm":  # modules are found from where a script lies
        for script in HERE.glob("*.mjs"):
            (home / script.name).write_bytes(script.read_bytes())
    return home


def command(client: Client, home: Path) -> list[str]:
    """What runs its checks."""
    if client.script.endswith(".mjs"):
        return ["node", "--no-warnings", str(home / client.script)]
    python = home / "bin" / "python" if client.kind == "pip" else Path(sys.executable)
    return [str(python), str(HERE / client.script)]


def _make_venv(home: Path, packages: tuple[str, ...]) -> None:
    venv.create(home, with_pip=True, clear=True)
    _run([str(home / "bin" / "python"), "-m", "pip", "install", "--quiet", *packages], home)


def _make_npm(home: Path, packages: tuple[str, ...]) -> None:
    (home / "package.json").write_text('{"private": true, "type": "module"}', "utf-8")
    _run(["npm", "install", "--no-audit", "--no-fund", "--loglevel=error", *packages], home)


def _run(words: list[str], home: Path) -> None:
    done = subprocess.run(words, cwd=home, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(words)} failed in {home}:\n{done.stderr[-2000:]}")
