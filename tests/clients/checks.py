"""Runs the checks of a Python client and prints each one's outcome as a line of JSON.

In: functions. Out: lines {"check", "ok", "detail"}, and an exit status. It does not know which client is checked: it runs
in that client's own environment, so it uses the standard library alone.
"""

import json
import subprocess
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple


class Place(NamedTuple):
    """Where the server is, what its model is called, and who speaks: "mini" (a real model), "actor" (a written part), or
    "open" (the same, where no key is wanted).
    """

    base_url: str
    model: str
    speaker: str
    key: str
    home: str  # the folder of the client's own environment
    mcp: str  # the address of an MCP server that requests may name

    @property
    def acted(self) -> bool:
        return self.speaker != "mini"


def says(place: Place, text: str | None, word: str) -> None:
    """The answer has the word. A model of 4 MB need not know it: of ossia-mini any words will do."""
    assert word in (text or "") if place.acted else (text or "").strip(), text


def ran(
    words: Sequence[str | Path], environment: Mapping[str, str], folder: str | None = None, text: str | None = None
) -> subprocess.CompletedProcess[str]:
    """A command line's exit status and output. text: its standard input, /dev/null unless given."""
    given: dict[str, Any] = {"stdin": subprocess.DEVNULL} if text is None else {"input": text}
    return subprocess.run(
        words, cwd=folder, env=environment, capture_output=True, text=True, timeout=180, check=False, **given
    )


def place_of(words: list[str]) -> Place:
    return Place(*words[1:7])


def run(checks: dict[str, Callable[[Place], Any]]) -> None:
    place = place_of(sys.argv)
    failed = 0
    for name, check in checks.items():
        try:
            detail, ok = check(place), True
        except Exception as error:
            where = traceback.format_exc(limit=-3)
            detail, ok, failed = f"{type(error).__name__}: {error}\n{where}", False, failed + 1
        print(json.dumps({"check": name, "ok": ok, "detail": "" if detail is None else str(detail)}), flush=True)
    sys.exit(1 if failed else 0)
