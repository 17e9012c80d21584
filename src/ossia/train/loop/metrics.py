"""What a run reports: a JSON line a report, curves of them, a line on the terminal with the time left.

In: numbers by name. Out: log.jsonl, metrics.html, TensorBoard's event files if wanted.
It does not know what is measured.
"""

import json
from pathlib import Path
from typing import Any

from ossia.train.loop.checkpoint import write_atomically
from ossia.train.loop.plot import page
from ossia.train.recipe import CheckpointConfig

LOG, PLOT = "log.jsonl", "metrics.html"


class TrainingLog:
    """The log of one stage. After a resumption it goes on behind `step`: what a killed run wrote later is dropped."""

    def __init__(self, folder: Path, title: str, keep: CheckpointConfig, step: int) -> None:
        self._folder, self._title, self._keep = folder, title, keep
        self._board = _board(folder) if keep.tensorboard else None
        kept = [row for row in read_log(folder / LOG) if row["step"] <= step]
        text = "".join(json.dumps(row) + "\n" for row in kept)
        write_atomically(folder / LOG, lambda stream: stream.write(text.encode()))

    def report(self, step: int, steps: int, seconds_left: float, numbers: dict[str, float]) -> None:
        row = {"step": step} | {name: float(f"{value:.9g}") for name, value in numbers.items()}
        with (self._folder / LOG).open("a", encoding="utf-8") as log:
            log.write(json.dumps(row) + "\n")
        if self._board:
            for name, value in numbers.items():
                self._board.add_scalar(f"{self._title}/{name}", value, step)
        shown = [name for name in ("loss", "reward", "right", "gap", "tokens_a_second") if name in numbers]
        told = " ".join(f"{name} {numbers[name]:.4g}" for name in shown)
        print(f"{self._title} {step}/{steps} {told} left {clock(seconds_left)}", flush=True)

    def draw(self) -> None:
        """Write metrics.html anew from the log."""
        if self._keep.plot:
            text = page(self._title, read_log(self._folder / LOG))
            write_atomically(self._folder / PLOT, lambda stream: stream.write(text.encode()))
        if self._board:
            self._board.flush()


def read_log(path: Path) -> list[dict[str, Any]]:
    """The log's rows; a last line that a kill cut short is left out."""
    rows = []
    for line in path.read_text("utf-8").splitlines() if path.exists() else ():
        try:
            rows.append(json.loads(line))
        except ValueError:
            break
    return rows


def clock(seconds: float) -> str:
    """Hours, minutes and seconds, as 1:02:03."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}"


def _board(folder: Path) -> Any:
    try:
        from torch.utils.tensorboard.writer import SummaryWriter
    except ModuleNotFoundError as error:
        raise ValueError("tensorboard = true needs the package: pip install 'ossia[tensorboard]'") from error
    return SummaryWriter(str(folder / "tensorboard"))
