"""The machine and this process: processor, cores, memory free and memory used.

In: nothing. Out: plain values, in bytes.
It does not know models or clocks.
"""

import platform
import sys
from dataclasses import dataclass
from pathlib import Path

import psutil

from ossia.kernels.triton.tools.check import facts_of_this_machine

_STATUS = Path("/proc/self/status")


@dataclass(frozen=True, slots=True)
class Machine:
    processor: str
    cores: int
    logical_cores: int
    memory_bytes: int
    system: str
    python: str
    card: str = ""  # where a card computes


def this_machine(has_card: bool = False) -> Machine:
    logical = psutil.cpu_count() or 1
    return Machine(
        processor=_processor(),
        cores=psutil.cpu_count(logical=False) or logical,
        logical_cores=logical,
        memory_bytes=psutil.virtual_memory().total,
        system=f"{platform.system()} {platform.machine()}",
        python=platform.python_version(),
        card=_card() if has_card else "",
    )


def rss_bytes() -> int:
    return psutil.Process().memory_info().rss


def peak_rss_bytes() -> int:
    """The most this process has held since it began, loading included."""
    if _STATUS.exists():  # ru_maxrss would carry over what the process that started this one had held
        line = next(line for line in _STATUS.read_text("utf-8").splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    if sys.platform == "win32":
        return psutil.Process().memory_info().peak_wset
    from resource import RUSAGE_SELF, getrusage

    unit = 1 if sys.platform == "darwin" else 1024
    return getrusage(RUSAGE_SELF).ru_maxrss * unit


def _card() -> str:
    cards = facts_of_this_machine().cards
    return cards[0].name if cards else ""


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [line.split(":", 1)[1].strip() for line in info.read_text("utf-8").splitlines() if "model name" in line]
        if names:
            return names[0]
    return platform.processor() or platform.machine()
