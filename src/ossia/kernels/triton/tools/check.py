# pyright: standard
"""Finds what this machine lacks for the GPU backend, with the remedy, and what an older GPU emulates.

In: facts about this machine, collected here too. Out: a sentence, or None. `ossia.engine.plan` decides whether a model
fits the GPU's memory.
"""

import os
import shutil
import sys
import sysconfig
from ctypes import CDLL, byref, c_int
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

MIN_CAPABILITY = (8, 0)  # compute capability: bfloat16 tensor cores and asynchronous copies
HOPPER = (9, 0)
INSTALL = "pip install 'ossia[gpu]'"
CPU_INSTEAD = "--backend cpu runs the same model without a card"


class CardError(ValueError):
    """This machine cannot run the GPU backend. The message says why, and what to do."""


class Card(NamedTuple):
    name: str
    capability: tuple[int, int]
    bytes: int


class Facts(NamedTuple):
    """Facts about this machine.

    - torch, triton: versions; None if not installed. cuda, hip: what torch was built for.
    - cards: visible GPUs. trouble: the driver's error if there are none. visible: CUDA_VISIBLE_DEVICES.
    - compiler, headers: a C compiler and Python's headers, which Triton needs at its first launch.
    - interpreted: Triton runs kernels in Python on CPU tensors, for tests.
    """

    system: str
    torch: str | None
    triton: str | None
    cuda: str | None = None
    hip: str | None = None
    cards: tuple[Card, ...] = ()
    trouble: str = ""
    visible: str | None = None
    compiler: bool = True
    headers: bool = True
    interpreted: bool = False


def require_card() -> None:
    """Raise CardError if the GPU backend cannot run here."""
    if said := lacking(facts_of_this_machine()):
        raise CardError(f"backend 'triton' cannot run here: {said}")


def no_gpu_reason() -> str | None:
    """Why the GPU backend cannot run here; None if it can. Imports torch only if there is an NVIDIA GPU."""
    if not gpu_count():
        return "no NVIDIA GPU found"
    missing = [name for name in ("torch", "triton") if find_spec(name) is None]
    if missing:
        return f"there is an NVIDIA GPU, but {' and '.join(missing)} not installed: {INSTALL}"
    reason = lacking(facts_of_this_machine())
    return reason and reason.removesuffix(f"; {CPU_INSTEAD}")


def gpu_count() -> int:
    """The NVIDIA GPUs that CUDA's driver reports, without torch. 0 without a driver."""
    try:
        driver = CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return 0
    count = c_int()
    works = driver.cuInit(0) == 0 and driver.cuDeviceGetCount(byref(count)) == 0
    return count.value if works else 0


def lacking(facts: Facts) -> str | None:
    """What is missing for the GPU backend, with the remedy; None if nothing is."""
    if facts.torch and facts.triton and facts.interpreted:
        return None
    return _lacking_software(facts) or _lacking_card(facts) or _lacking_build(facts)


def emulated(card: Card) -> tuple[str, ...]:
    """What this GPU emulates, compared with compute capability 9.0, which the kernels target."""
    if card.capability >= HOPPER:
        return ()
    said = ["products go through mma.sync: 9.0 has wgmma, which multiplies from shared memory"]
    if card.capability < (8, 9):
        said.append("fp8 keys and values are widened by integer arithmetic: there is no instruction for it before 8.9")
    return tuple(said)


def facts_of_this_machine() -> Facts:
    """Collect the facts. Imports torch and Triton if installed, and asks the driver for its GPUs."""
    torch, triton = _module("torch"), _module("triton")
    facts = Facts(
        sys.platform,
        _version(torch),
        _version(triton),
        visible=os.environ.get("CUDA_VISIBLE_DEVICES"),
        compiler=bool(os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")),
        headers=Path(sysconfig.get_paths()["include"], "Python.h").exists(),
    )
    if triton is not None:
        facts = facts._replace(interpreted=bool(triton.knobs.runtime.interpret))
    if torch is None:
        return facts
    facts = facts._replace(cuda=torch.version.cuda, hip=torch.version.hip)
    if not (facts.cuda or facts.hip):
        return facts
    try:
        torch.cuda.init()
        return facts._replace(cards=tuple(_card(torch, index) for index in range(torch.cuda.device_count())))
    except (RuntimeError, AssertionError) as error:
        return facts._replace(trouble=(str(error).strip() or type(error).__name__).splitlines()[0])


def _lacking_software(facts: Facts) -> str | None:
    if not facts.triton and not facts.system.startswith("linux"):
        return (
            f"Triton is published for Linux, and this is {facts.system}: use Linux, or WSL 2 on Windows; {CPU_INSTEAD}"
        )
    missing = [name for name, version in (("torch", facts.torch), ("triton", facts.triton)) if not version]
    if missing:
        return f"{' and '.join(missing)} not installed: {INSTALL}"
    if facts.hip:
        return (
            f"this torch {facts.torch} is for AMD cards (ROCm {facts.hip}): the kernels are compiled for AMD's gfx942 in the "
            f"tests, but have never run on such a card, so they are refused; {CPU_INSTEAD}"
        )
    if not facts.cuda:
        return (
            f"torch {facts.torch} is built for the CPU alone: install one for CUDA, from https://pytorch.org/get-started; "
            f"{CPU_INSTEAD}"
        )
    return None


def _lacking_card(facts: Facts) -> str | None:
    if not facts.cards and facts.visible is not None and facts.visible.strip() in ("", "-1"):
        return f"CUDA_VISIBLE_DEVICES is {facts.visible!r}, which hides every card: unset it; {CPU_INSTEAD}"
    if not facts.cards:
        said = facts.trouble or "the driver names none"
        return (
            f"torch {facts.torch} (CUDA {facts.cuda}) sees no NVIDIA card ({said}): nvidia-smi should list one; if it does "
            f"not, install NVIDIA's driver; {CPU_INSTEAD}"
        )
    card = facts.cards[0]
    if card.capability < MIN_CAPABILITY:
        return (
            f"{card.name} has compute capability {'.'.join(map(str, card.capability))}, and the kernels need "
            f"{'.'.join(map(str, MIN_CAPABILITY))} (Ampere, 2020) or later: older cards multiply no bfloat16 in their "
            f"tensor cores and copy nothing asynchronously, so emulating both would be slower than a CPU; {CPU_INSTEAD}"
        )
    return None


def _lacking_build(facts: Facts) -> str | None:
    if not facts.compiler:
        return "there is no C compiler, with which Triton builds its launcher: install gcc (apt install gcc), or set CC"
    if not facts.headers:
        return "Python's headers, against which Triton builds its launcher, are missing: apt install python3-dev"
    return None


def _module(name: str) -> Any:
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name:
            raise
        return None


def _version(module: Any) -> str | None:
    return None if module is None else str(module.__version__)


def _card(torch: Any, index: int) -> Card:
    properties = torch.cuda.get_device_properties(index)
    return Card(properties.name, (properties.major, properties.minor), properties.total_memory)
