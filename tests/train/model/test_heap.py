"""Idle memory goes back to the system when it has added up, and not before."""

import subprocess
import sys

import pytest

from ossia.train.model import heap
from ossia.train.model.heap import Heap


class Library:
    def __init__(self) -> None:
        self.calls: list[int] = []

    def malloc_trim(self, pad: int) -> None:
        self.calls.append(pad)


def test_the_heap_is_emptied_each_time_the_process_has_grown(monkeypatch: pytest.MonkeyPatch):
    library, size = Library(), [100]
    monkeypatch.setattr(heap, "_glibc", lambda: library)
    monkeypatch.setattr(heap, "_own_bytes", lambda: size[0])
    watched = Heap()
    for grown, calls in (
        (0, 0),
        (heap.GROWTH, 0),
        (heap.GROWTH + 1, 1),
        (heap.GROWTH + 1, 1),
        (2 * heap.GROWTH + 2, 2),
    ):
        size[0] = 100 + grown
        watched.trim()
        assert len(library.calls) == calls


def test_without_such_a_library_nothing_is_done(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(heap, "_glibc", lambda: None)
    Heap().trim()


FRAGMENTS = """
import numpy as np
from ossia.train.model import heap

heap.GROWTH = 1 << 26
watched = heap.Heap()
buffers = [np.ones(1 << 13) for _ in range(6000)]  # of 64 KiB: none has pages of its own
kept = buffers[::100]
del buffers
before = heap._own_bytes()
watched.trim()
assert all(each.sum() == each.size for each in kept)
print(before - heap._own_bytes() >> 20)
"""


@pytest.mark.skipif(heap._glibc() is None, reason="not glibc")
def test_what_was_freed_between_buffers_in_use_is_given_back():
    """In a process of its own, whose heap has nothing idle to begin with."""
    given = subprocess.run([sys.executable, "-c", FRAGMENTS], capture_output=True, text=True, check=True)
    assert int(given.stdout) > 300
