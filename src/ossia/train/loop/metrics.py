"""The log of a stage: a JSON line per report, curves, and a line on the terminal with the time left.

Input: metrics by name. Output: log.jsonl, metrics.html, and TensorBoard event files if the recipe asks for them.
"""

import json
from pathlib import Path
from typing import Any

from ossia.train.loop.checkpoint import write_atomically
from ossia.train.loop.plot import metrics_page
from ossia.train.recipe import CheckpointConfig
from ossia.train.renamed import row_with_new_names

LOG, PLOT = "log.jsonl", "metrics.html"


class TrainingLog:
    """The log of one stage. A resumed run continues after `step`; later lines of the interrupted run are dropped."""

    def __init__(self, folder: Path, title: str, config: CheckpointConfig, step: int) -> None:
        self._folder, self._title, self._config = folder, title, config
        self._board = _board(folder) if config.tensorboard else None
        kept = [row for row in read_log(folder / LOG) if row["step"] <= step]
        text = "".join(json.dumps(row) + "\n" for row in kept)
        write_atomically(folder / LOG, lambda stream: stream.write(text.encode()))

    def report(self, step: int, steps: int, seconds_left: float, metrics: dict[str, float]) -> None:
        row = {"step": step} | {name: float(f"{value:.9g}") for name, value in metrics.items()}
        with (self._folder / LOG).open("a", encoding="utf-8") as log:
            log.write(json.dumps(row) + "\n")
        if self._board:
            for name, value in metrics.items():
                self._board.add_scalar(f"{self._title}/{name}", value, step)
        shown = [name for name in ("loss", "reward", "accuracy", "logprob_gap", "tokens_per_second") if name in metrics]
        text = " ".join(f"{name} {metrics[name]:.4g}" for name in shown)
        print(f"{self._title} {step}/{steps} {text} left {clock(seconds_left)}", flush=True)

    def plot(self) -> None:
        """Write metrics.html from the whole log."""
        if self._config.plot:
            text = metrics_page(self._title, read_log(self._folder / LOG))
            write_atomically(self._folder / PLOT, lambda stream: stream.write(text.encode()))
        if self._board:
            self._board.flush()


def read_log(path: Path) -> list[dict[str, Any]]:
    """The rows of a log, with new names of metrics. An incomplete last line of a killed run is skipped."""
    rows: list[dict[str, Any]] = []
    for line in path.read_text("utf-8").splitlines() if path.exists() else ():
        try:
            rows.append(row_with_new_names(json.loads(line)))
        except ValueError:
            break
    return rows


def clock(seconds: float) -> str:
    """Hours, minutes and seconds: 1:02:03."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}"


def _board(folder: Path) -> Any:
    try:
        from torch.utils.tensorboard.writer import SummaryWriter
    except ModuleNotFoundError as error:
        raise ValueError("tensorboard = true needs the package: pip install 'ossia[tensorboard]'") from error
    return SummaryWriter(str(folder / "tensorboard"))
