"""The viewer: escaped data, hidden questions, and in Chromium ten thousand rows that open and filter."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ossia.evals.core.run_log import RUN, SAMPLES, RunLogError
from ossia.evals.view.page import write_page
from tests.evals.test_run import ScriptedSolver, half_right, right, run
from tests.server.http.ui.page import running_chromium

ATTACK = "</script><script>document.title='broken'</script><img src=x onerror=alert(1)>"


def folder_of(tmp_path: Path, name: str, count: int, score: int = 0) -> Path:
    """A run with this many rows, as its log holds them."""
    folder = tmp_path / name
    folder.mkdir()
    (folder / RUN).write_text(json.dumps({"config": {"benchmark": "many", "model": "m"}}))
    message: dict[str, Any] = {
        "role": "assistant", "content": ATTACK, "reasoning": "secret thought",
        "tool_calls": [{"id": "1", "function": {"name": "look", "arguments": "{}"}}],
    }  # fmt: skip
    with (folder / SAMPLES).open("w") as file:
        for number in range(count):
            row = {
                "sample": f"q{number:05}", "repeat": 0, "effort": ("low", "high")[number % 2], "tags": [f"t{number % 10}"],
                "score": float(number % 4 == score), "reason": "r", "text": ATTACK,
                "finish": "length" if number % 100 == 0 else "stop",
                "usage": {"prompt": 1, "output": 3, "reasoning": 2},
                "messages": [{"role": "user", "content": f"question {number}"}, message],
            }  # fmt: skip
            file.write(json.dumps(row) + "\n")
    return folder


def test_no_text_of_the_data_is_markup(tmp_path: Path):
    target = tmp_path / "page.html"
    write_page([folder_of(tmp_path, "run", 3)], target)
    text = target.read_text()
    assert "<img" not in text
    assert text.count("<script") == text.count("</script>") == 2
    assert "http" not in text.replace("http-equiv", "")


def test_questions_are_shown_only_when_asked(tmp_path: Path):
    target = tmp_path / "page.html"
    folder = folder_of(tmp_path, "run", 3)
    write_page([folder], target)
    assert "question 1" not in target.read_text()
    write_page([folder], target, show_data=True)
    assert "question 1" in target.read_text()


def test_two_benchmarks_are_not_shown_side_by_side(tmp_path: Path):
    run(ScriptedSolver(right), tmp_path / "sums")
    with pytest.raises(RunLogError, match="different benchmarks"):
        write_page([folder_of(tmp_path, "run", 3), tmp_path / "sums"], tmp_path / "page.html")


@pytest.fixture
def chromium() -> Iterator[Any]:
    with running_chromium() as browser:
        yield browser


def opened(chromium: Any, path: Path) -> tuple[Any, list[str]]:
    page, asked = chromium.new_page(), []
    page.on("request", lambda request: asked.append(request.url))
    page.on("pageerror", lambda error: asked.append(f"error: {error}"))
    page.goto(path.as_uri())
    return page, asked


@pytest.mark.browser
def test_ten_thousand_rows_open_and_filter(tmp_path: Path, chromium: Any):
    target = tmp_path / "page.html"
    write_page([folder_of(tmp_path, "run", 10_000)], target)
    page, asked = opened(chromium, target)
    assert page.locator("#count").inner_text() == "10000 of 10000"
    assert page.locator(".row").count() < 100
    for name, value, left in (("score", "right", 2500), ("tag", "t4", 500), ("finish", "length", 0)):
        page.select_option(f"#{name}", value)
        assert page.locator("#count").inner_text() == f"{left} of 10000"
    for name in ("score", "tag", "finish"):
        page.select_option(f"#{name}", "")
    page.fill("#search", "q09999")
    assert page.locator("#count").inner_text() == "1 of 10000"
    page.fill("#search", "")
    page.evaluate("document.getElementById('list').scrollTop = 1e9")
    page.wait_for_function("document.getElementById('rows').textContent.includes('q09999')")
    assert asked == [target.as_uri()]


@pytest.mark.browser
def test_thinking_is_hidden_and_calls_are_folded(tmp_path: Path, chromium: Any):
    target = tmp_path / "page.html"
    write_page([folder_of(tmp_path, "run", 20)], target)
    page, _ = opened(chromium, target)
    page.locator(".row").first.click()
    assert page.locator(".commentary pre").inner_text() == ATTACK
    assert not page.locator(".analysis").is_visible()
    page.check("#thinking")
    assert page.locator(".analysis pre").inner_text() == "secret thought"
    assert not page.locator(".call").is_visible()
    page.locator("summary").click()
    assert page.locator(".call").is_visible()
    assert page.title() == "Ossia eval"


@pytest.fixture
def two_runs(tmp_path: Path) -> Path:
    """The page of two runs, written before Chromium's own event loop runs."""
    target = tmp_path / "page.html"
    run(ScriptedSolver(right), tmp_path / "one")
    run(ScriptedSolver(half_right), tmp_path / "two")
    write_page([tmp_path / "one", tmp_path / "two"], target)
    return target


@pytest.mark.browser
def test_two_runs_are_shown_side_by_side(two_runs: Path, chromium: Any):
    target = two_runs
    page, asked = opened(chromium, target)
    page.check("#diff")
    left = int(page.locator("#count").inner_text().split(" ")[0])
    assert 20 < left < 60
    page.locator(".row").first.click()
    assert page.locator(".run").count() == 2
    assert asked == [target.as_uri()]
