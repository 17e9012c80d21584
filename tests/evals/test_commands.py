"""`ossia eval`: benchmarks are listed, run in process and at an endpoint, compared, tabulated and viewed."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from ossia.cli import app
from ossia.cli.eval_benchmarks import TimeLeft, duration
from ossia.evals import catalogue
from ossia.evals.core.benchmark import PublishedScore
from ossia.loading import load
from tests.evals.test_run import SUMS
from tests.support.live import live

BENCHMARKS = catalogue.benchmarks  # the real ones: the tests here replace them
PUBLISHED = tuple(PublishedScore("gpt-oss-120b", effort, 80.0, "card") for effort in ("low", "medium", "high"))
FEW = ("--limit", "4", "--repeats", "2", "--max-tokens", "200", "--effort", "low")


@pytest.fixture(autouse=True)
def sums(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalogue, "benchmarks", lambda: (replace(SUMS, published=PUBLISHED),))


def ossia(*words: str, code: int = 0) -> str:
    """What the command printed, or its error."""
    result = CliRunner().invoke(app, ["eval", *words])
    assert result.exit_code == code, result.output
    return result.stdout if code == 0 else result.output


def scores(folder: Path) -> dict[Any, tuple[float, str | None]]:
    lines = [json.loads(line) for line in (folder / "samples.jsonl").read_text().splitlines()]
    return {(row["sample"], row["repeat"]): (row["score"], row["text"]) for row in lines}


def test_benchmarks_are_listed():
    assert "sums: Sums (×2)\n    Made up." in ossia("list")
    assert [each["name"] for each in json.loads(ossia("list", "--json"))] == ["sums"]


def test_an_endpoint_gives_the_rows_of_the_engine(tmp_path: Path):
    here = json.loads(ossia("sums", *FEW, "--out", str(tmp_path / "here"), "--json"))
    assert here["efforts"]["low"]["tries"] == 8
    with live(load()) as url:
        there = ossia("sums", *FEW, "--endpoint", url, "--api", "responses", "--out", str(tmp_path / "there"))
    assert "95 % interval: same questions" in there
    assert scores(tmp_path / "here" / "sums") == scores(tmp_path / "there" / "sums")
    compared = ossia("compare", str(tmp_path / "here" / "sums"), str(tmp_path / "there" / "sums"))
    assert "low: +0.0" in compared
    table = ossia("table", str(tmp_path / "here"))
    assert "| benchmark | ossia-mini low |" in table
    assert "80 / 80 / 80" in table
    page = Path(ossia("view", str(tmp_path / "here" / "sums")).strip())
    assert page.read_text().startswith("<!doctype html>")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["nothing"], "no benchmark 'nothing'"),
        (["compare", "one"], "give ossia eval compare FIRST SECOND"),
        (["table", "nowhere"], "holds no result"),
        (["view", "nowhere"], "holds no run"),
        (["sums", "somewhere"], "only a report takes folders"),
        (["sums", "--endpoint", "host"], "is no URL"),
        (["sums", "--endpoint", "http://h", "-m", "m", "--api", "soap"], "none of chat, responses"),
        (["sums", "--endpoint", "http://h", "-m", "m", "--tools", "magic"], "an endpoint's own tools are"),
    ],
)
def test_wrong_arguments_are_named(words: list[str], said: str):
    assert said in ossia(*words, code=1)


def test_the_time_left_is_that_of_this_start(monkeypatch: pytest.MonkeyPatch):
    now = [100.0]
    monkeypatch.setattr("ossia.cli.eval_benchmarks.time.monotonic", lambda: now[0])
    said: list[str] = []
    progress = TimeLeft("sums", said.append)
    progress(50, 100)
    now[0] = 110.0
    progress(60, 100)
    assert said == ["sums: 50 of 100 done", "sums: 60 of 100 done, 40 s left"]
    assert (duration(75), duration(3700)) == ("1 min 15 s", "1 h 1 min")


def test_every_benchmark_says_how_comparable_it_is():
    listed = BENCHMARKS()
    assert not [each.name for each in listed if not each.comparable]
    assert len({each.name for each in listed}) == len(listed)
