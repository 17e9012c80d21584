"""aider, the command line: a question, an edit of a file, and its advice where a conversation is too long.

In: base URL, model, speaker, key, home. Out: lines of JSON (checks.py). Run by the environment's own Python.
"""

import os
import sys
import tempfile
from pathlib import Path

from checks import Place, ran, run

QUIET = ("--no-git", "--yes-always", "--no-check-update", "--no-show-model-warnings", "--no-show-release-notes")
PLAIN = ("--analytics-disable", "--no-pretty", "--no-detect-urls", "--no-suggest-shell-commands", "--no-fancy-input")


def aider(place: Place, message: str, *options: str) -> str:
    """One `aider --message` in a fresh folder, with a home of its own: what it prints."""
    with tempfile.TemporaryDirectory() as home, tempfile.TemporaryDirectory() as work:
        Path(work, "message.txt").write_text(message, "utf-8")
        environment = {
            **os.environ,
            "HOME": home,
            "OPENAI_API_BASE": place.base_url,
            "OPENAI_API_KEY": place.key,
            "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        }
        program = Path(sys.executable).parent / "aider"
        words = ["--model", f"openai/{place.model}", "--message-file", "message.txt", *QUIET, *PLAIN, *options]
        done = ran([program, *words], environment, work)
    return done.stdout + done.stderr


def text(place: Place, *options: str):
    said = aider(place, "What is 12 + 30?", *options)
    assert "42 it is." in said, said[-1500:]
    return said[-200:]


def too_long(place: Place):
    """C1: it tells what to do, which it does only where it knows the error."""
    said = aider(place, "word and word again " * 60_000)
    assert "token limit" in said or "context window" in said, said[-1500:]
    assert "/clear" in said or "/drop" in said, said[-1500:]
    return said[-600:]


if __name__ == "__main__":
    run(
        {
            "a question": text,
            "a question, not streamed": lambda place: text(place, "--no-stream"),
            "a conversation too long": too_long,
        }
    )
