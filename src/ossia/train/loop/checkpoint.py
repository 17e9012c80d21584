"""A run's state on disk: never half, the last two kept, the newest that is whole taken.

In: a folder and a state made of tensors and plain values. Out: files state-STEP.pt; the state again.
It does not know what is in a state.
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
    """A run cannot go on from what is saved."""


def save_state(folder: Path, step: int, state: dict[str, Any]) -> None:
    """Written beside and renamed: a kill or a power cut leaves the state before or this one."""
    write_atomically(folder / f"state-{step:08}.pt", lambda stream: torch.save(state, stream))
    for old in _saved(folder)[:-KEPT]:
        old.unlink()


def load_state(folder: Path, device: torch.device) -> dict[str, Any] | None:
    """The newest state that can be read; None where there is none. StateError where all are damaged."""
    damage: list[str] = []
    for path in reversed(_saved(folder)):
        try:
            return torch.load(path, map_location=device, weights_only=True)
        except (RuntimeError, EOFError, OSError, pickle.UnpicklingError) as error:
            damage.append(f"{path}: {error}")
    if damage:
        raise StateError("no saved state can be read; remove them to begin anew: " + "; ".join(damage))
    return None


def write_atomically(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """The file holds what it held before, or all that `write` gives it, whatever happens in between."""
    part = path.with_name(path.name + ".part")
    with part.open("wb") as stream:
        write(stream)
        stream.flush()
        os.fsync(stream.fileno())
    part.replace(path)
    if os.name == "posix":  # the rename itself is on disk once its folder is
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _saved(folder: Path) -> list[Path]:
    """In the order of their steps."""
    return sorted((path for path in folder.glob("state-*.pt") if _NAME.fullmatch(path.name)), key=_step_of)


def _step_of(path: Path) -> int:
    match = _NAME.fullmatch(path.name)
    return int(match[1]) if match else -1
