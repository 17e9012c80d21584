"""Writes the viewer: one HTML file with the rows of a run, or of two runs side by side.

In: the folders of one or two runs. Out: a file. Its data is escaped JSON; the page's script writes text only.
"""

import json
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import msgspec

from ossia.evals.core.run_log import RESULT, RunLogError, SampleRow, read_rows, read_run

HIDDEN = "[not shown: give --show-data]"
QUESTION_ROLES = ("system", "developer", "user")


def write_page(folders: Sequence[Path], target: Path, *, show_data: bool = False) -> None:
    """Write the page. Raises RunLogError if a folder holds no run, or if the two are of different benchmarks.

    show_data: with the questions. Some data asks that its questions are never put on web pages.
    """
    runs = [_run(folder, show_data) for folder in folders]
    if len({run["benchmark"] for run in runs}) > 1:
        raise RunLogError(f"{folders[0]} and {folders[1]} are runs of different benchmarks")
    target.write_text(page_of(runs), "utf-8")


def page_of(runs: Sequence[Mapping[str, Any]]) -> str:
    """The page. No text of the data can end the element that holds it."""
    data = json.dumps(list(runs)).replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")
    here = files("ossia.evals.view")
    parts = {name: (here / name).read_text("utf-8") for name in ("page.html", "page.css", "page.js")}
    page = parts["page.html"].replace("/*STYLE*/", parts["page.css"]).replace("/*SCRIPT*/", parts["page.js"])
    return page.replace("DATA_OF_THE_RUNS", data)


def _run(folder: Path, show_data: bool) -> dict[str, Any]:
    config = read_run(folder)["config"]
    result_path = folder / RESULT
    result = json.loads(result_path.read_text("utf-8")) if result_path.is_file() else {}
    rows = sorted(read_rows(folder), key=lambda row: (row.sample, row.repeat, row.effort))
    return {
        "name": folder.name,
        "benchmark": config["benchmark"],
        "model": config["model"],
        "scores": {effort: each.get("score") for effort, each in result.get("efforts", {}).items()},
        "rows": [_row(row, show_data) for row in rows],
    }


def _row(row: SampleRow, show_data: bool) -> dict[str, Any]:
    shown: dict[str, Any] = msgspec.to_builtins(row)
    if not show_data:
        shown["messages"] = [
            {**message, "content": HIDDEN} if message.get("role") in QUESTION_ROLES else message
            for message in shown["messages"]
        ]
    # the sealed items of the Responses API only repeat the message
    shown["messages"] = [{name: each[name] for name in each if name != "items"} for each in shown["messages"]]
    return shown
