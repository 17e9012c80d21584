"""What a machine lacks for the GPU backend is said with its remedy, whatever it lacks."""

import subprocess
import sys
from pathlib import Path

import pytest

from ossia.kernels.backends import make_ops
from ossia.kernels.triton.tools.check import Card, Facts, emulated, lacking

GIB = 1 << 30
H100 = Card("NVIDIA H100 80GB HBM3", (9, 0), 80 * GIB)
ENOUGH = Facts("linux", "2.13.0", "3.9.0", cuda="12.9", cards=(H100,))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"triton": None}, r"triton not installed: pip install 'ossia\[gpu\]'"),
        ({"torch": None, "triton": None}, r"torch and triton not installed: pip install"),
        ({"triton": None, "system": "win32"}, "published for Linux, and this is win32: use Linux, or WSL 2"),
        ({"cuda": None, "cards": ()}, "built for the CPU alone: install one for CUDA, from https://pytorch.org"),
        ({"cuda": None, "hip": "6.4", "cards": ()}, "never run on such a card, so they are refused"),
        ({"cards": (), "trouble": "Found no NVIDIA driver"}, r"Found no NVIDIA driver\): nvidia-smi should list one"),
        ({"cards": ()}, "the driver names none"),
        ({"cards": (), "visible": ""}, "CUDA_VISIBLE_DEVICES is '', which hides every card: unset it"),
        (
            {"cards": (Card("Tesla T4", (7, 5), 16 * GIB),)},
            r"Tesla T4 has compute capability 7\.5, and the kernels need 8\.0",
        ),
    ],
)
def test_what_is_missing_is_named_with_the_remedy(changes: dict, said: str):
    with pytest.raises(AssertionError, match=said):
        assert lacking(ENOUGH._replace(**changes)) is None


def test_a_hopper_card_lacks_nothing_and_older_ones_say_what_they_emulate():
    assert lacking(ENOUGH) is None
    assert emulated(H100) == ()
    ada, ampere = (emulated(Card("", capability, 0)) for capability in ((8, 9), (8, 0)))
    assert len(ada) == 1
    assert len(ampere) == 2
    assert lacking(ENOUGH._replace(cards=(Card("NVIDIA A100", (8, 0), 0),))) is None


def test_under_the_interpreter_no_card_is_needed():
    assert lacking(ENOUGH._replace(cuda=None, cards=(), interpreted=True)) is None
    assert lacking(Facts("linux", None, None, interpreted=True)) is not None


@pytest.mark.parametrize(
    ("kinds", "said"),
    [
        ({"dense": "int4"}, "dense 'int4' is not one of backend 'triton': it has bf16, int8"),
        ({"kv": "f32"}, "kv 'f32' is not one of backend 'triton': it has bf16, fp8"),
    ],
)
def test_kinds_that_the_backend_does_not_have_are_refused_first(kinds: dict, said: str):
    with pytest.raises(ValueError, match=said):
        make_ops("triton", **kinds)
    with pytest.raises(ValueError, match="kv 'fp8' is not one of backend 'cpu'"):
        make_ops("cpu", kv="fp8")


def test_asking_what_is_missing_needs_neither_torch_nor_triton(tmp_path: Path):
    for name in ("torch", "triton"):
        (tmp_path / f"{name}.py").write_text(f"raise ModuleNotFoundError('no {name}', name={name!r})")
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); from ossia.kernels.backends import make_ops; make_ops('triton')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "pip install 'ossia[gpu]'" in done.stderr or "published for Linux" in done.stderr
