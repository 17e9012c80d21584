"""The log, its curves and the time left."""

import json
import re
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from ossia.train.loop.metrics import TrainingLog, clock, read_log
from ossia.train.loop.plot import metrics_page
from ossia.train.recipe import CheckpointConfig


def reported(folder: Path, steps: range, **keep: bool) -> TrainingLog:
    metrics = TrainingLog(folder, "sft", CheckpointConfig(**keep), steps.start - 1)  # type: ignore[arg-type]
    for step in steps:
        metrics.report(step, 100, 3725, {"loss": 3.0 / step, "tokens_per_second": 10})
    return metrics


def test_a_log_goes_on_behind_the_state_and_without_a_torn_line(tmp_path: Path):
    reported(tmp_path, range(1, 6))
    with (tmp_path / "log.jsonl").open("a") as log:
        log.write('{"step": 6, "lo')
    reported(tmp_path, range(4, 7))
    assert [row["step"] for row in read_log(tmp_path / "log.jsonl")] == [1, 2, 3, 4, 5, 6]


def test_the_terminal_hears_of_the_time_left(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    reported(tmp_path, range(1, 2))
    assert capsys.readouterr().out == "sft 1/100 loss 3 tokens_per_second 10 left 1:02:05\n"
    assert clock(59.6) == "0:01:00"


def test_curves_are_one_file_that_needs_nothing_else(tmp_path: Path):
    reported(tmp_path, range(1, 40)).plot()
    text = (tmp_path / "metrics.html").read_text()
    assert not re.search(r"https?://|<script|<link|src=", text)
    drawings = [ElementTree.fromstring(svg) for svg in re.findall(r"<svg.*?</svg>", text)]
    assert [svg.get("aria-label") for svg in drawings] == ["loss: 0.076923", "tokens_per_second: 10"]
    raw = next(path for path in drawings[0].iter("path") if path.get("class") == "raw")
    points = [tuple(map(float, pair.split(","))) for pair in str(raw.get("d"))[1:].split()]
    assert len(points) == 39
    assert [x for x, _ in points] == sorted(x for x, _ in points)
    assert [y for _, y in points] == sorted(y for _, y in points)  # the loss falls, and y grows downwards


@pytest.mark.parametrize(
    "rows",
    [
        [],
        [{"step": 1, "loss": 1.0}],
        [{"step": 1, "a": float("nan")}, {"step": 2, "a": 0.0}, {"step": 3}],
        [{"step": 1, "<b>": -1e-12}, {"step": 2, "<b>": 1e12}],
    ],
)
def test_any_log_can_be_drawn(rows: list[dict]):
    text = metrics_page("a & b", rows)
    assert "a &amp; b" in text
    assert "nan" not in text
    assert "<b>" not in text


def test_tensorboard_is_an_extra_that_an_error_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard.writer", None)
    with pytest.raises(ValueError, match=r"ossia\[tensorboard\]"):
        reported(tmp_path, range(1, 2), tensorboard=True)


def test_tensorboard_gets_what_the_log_gets(tmp_path: Path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    reported(tmp_path, range(1, 4), tensorboard=True).plot()
    events = accumulator.EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    scalars = [(event.step, event.value) for event in events.Scalars("sft/loss")]
    assert scalars == [(1, 3.0), (2, 1.5), (3, 1.0)]
    assert json.loads((tmp_path / "log.jsonl").read_text().splitlines()[1])["loss"] == 1.5
