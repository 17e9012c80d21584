"""The saved states of a run: written atomically, the last two kept, the newest readable one loaded.

Input: a folder and a state made of tensors and plain values. Output: files state-STEP.pt; the state again.
"""

import os
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import torch

KEPT = 2
_NAME = re.compile(r"state-(\d+)\.pt")


class StateError(ValueError):
    """The saved states of a run cannot be read."""


def save_state(folder: Path, step: int, state: dict[str, Any]) -> None:
    """Write to a temporary file and rename it: after a crash there is the previous state or this one."""
    write_atomically(folder / f"state-{step:08}.pt", lambda stream: torch.save(state, stream))
    for old in _saved(folder)[:-KEPT]:
        old.unlink()


def load_state(folder: Path, device: torch.device) -> dict[str, Any] | None:
    """The newest readable state; None if there are none. StateError if all are damaged."""
    damage: list[str] = []
    for path in reversed(_saved(folder)):
        try:
            return torch.load(path, map_location=device, weights_only=True)
        except (RuntimeError, EOFError, OSError, pickle.UnpicklingError) as error:
            damage.append(f"{path}: {error}")
    if damage:
        raise StateError("no saved state can be read; delete them to start over: " + "; ".join(damage))
    return None


def write_atomically(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Replace a file: after a crash it has its old content or all of the new."""
    part = path.with_name(path.name + ".part")
    with part.open("wb") as stream:
        write(stream)
        stream.flush()
        os.fsync(stream.fileno())
    part.replace(path)
    if os.name == "posix":  # syncing the folder makes the rename durable
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _saved(folder: Path) -> list[Path]:
    """Files of saved states, by step."""
    return sorted((path for path in folder.glob("state-*.pt") if _NAME.fullmatch(path.name)), key=_step_of)


def _step_of(path: Path) -> int:
    match = _NAME.fullmatch(path.name)
    return int(match[1]) if match else -1
