"""Every target computes the same numbers; which target is taken for which machine; exp; Arm's instructions."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from llvmlite import binding, ir

from ossia.kernels.cpu.codegen.simd import BYTES, POINTER, TARGET, WORDS, Emit, MachineTarget, target_of
from ossia.kernels.cpu.pack import BIAS, E2M1_CODES, INT4_CODES
from tests.kernels.exactly import read_back, rounded
from tests.kernels.targets import EXPONENTS, NARROW, WIDE, activations, attended, computed, exp, weights

ROOT = Path(__file__).parents[3]
AVX2 = "+sse,+sse2,+sse3,+ssse3,+sse4.1,+sse4.2,+popcnt,+avx,+avx2,+fma,+bmi,+bmi2,+f16c,+lzcnt,+movbe,+cx16"
AVX512_MORE = ",+avx512f,+avx512bw,+avx512dq,+avx512vl,+avx512cd,+avx512vnni"
# name: what the host must have, Numba's CPU, its features
OTHERS = {
    "portable": (set(), "generic", "+sse,+sse2"),
    "avx2": ({"avx2", "fma"}, "haswell", AVX2),
    "avxvnni": ({"avx2", "fma", "avxvnni"}, "haswell", AVX2 + ",+avxvnni"),
    "avx512vnni": (
        {"avx512f", "avx512bw", "avx512vnni"},
        "cascadelake",
        AVX2 + AVX512_MORE,
    ),  # and none that came later
}
IS_X86 = binding.get_default_triple().startswith("x86_64")


@pytest.fixture(scope="module")
def ours() -> dict[str, np.ndarray]:
    return {**computed(), "attention": attended()}


@pytest.mark.skipif(not IS_X86, reason="targets of x86")
@pytest.mark.parametrize("name", OTHERS)
def test_every_target_computes_the_same(name: str, ours: dict[str, np.ndarray], tmp_path: Path):
    needs, cpu, features = OTHERS[name]
    if not needs <= {feature for feature, there in binding.get_host_cpu_features().items() if there}:
        pytest.skip(f"this machine has no {name}")
    target = {"NUMBA_CPU_NAME": cpu, "NUMBA_CPU_FEATURES": features, "NUMBA_CACHE_DIR": str(tmp_path)}
    path = os.pathsep.join([str(ROOT / "src"), str(ROOT)])
    command = [sys.executable, "-m", "tests.kernels.targets", str(tmp_path / "out.npz")]
    subprocess.run(command, check=True, cwd=ROOT, env={**os.environ, **target, "PYTHONPATH": path}, timeout=120)
    theirs = np.load(tmp_path / "out.npz")
    assert theirs["target"] == name
    assert set(ours) - {"attention"} <= set(theirs)
    assert name != "avx2" or "attention" in theirs
    for what, truth in ((what, truth) for what, truth in ours.items() if what in theirs):
        if (name != "portable" and TARGET.fused) or what.endswith(f" {NARROW}"):
            assert theirs[what].tobytes() == truth.tobytes(), what
        else:
            np.testing.assert_allclose(theirs[what], truth, rtol=1e-5, atol=1e-5, err_msg=what)


@pytest.mark.parametrize("width", [NARROW, WIDE])
@pytest.mark.parametrize("kind", ["int8", "int4", "mxfp4"])
def test_this_target_sums_exactly(kind: str, width: int, ours: dict[str, np.ndarray]):
    panels = weights(width)[kind]
    kept, seen = read_back(panels).astype(np.float64), rounded(activations(width), panels.kind)
    size = (np.abs(seen) @ np.abs(kept.T)).max()
    np.testing.assert_allclose(ours[f"{kind} {width}"], seen @ kept.T, rtol=0, atol=2e-6 * size)


def test_exp_is_within_two_units_in_the_last_place():
    inside = EXPONENTS >= -87
    truth = np.exp(EXPONENTS[inside].astype(np.float64))
    unit = np.spacing(truth.astype(np.float32)).astype(np.float64)
    assert (np.abs(exp(EXPONENTS)[inside] - truth) <= 2 * unit).all()


def test_the_short_exp_is_within_four_millionths():
    inside = EXPONENTS[(EXPONENTS >= -87) & (EXPONENTS <= 0)]
    inside = np.resize(inside, -(-inside.size // 16) * 16)
    truth = np.exp(inside.astype(np.float64))
    assert (np.abs(exp(inside, "exp_short") - truth) <= 4e-6 * truth).all()


@pytest.mark.parametrize("name", ["exp", "exp_short"])
def test_exp_is_exact_where_softmax_relies_on_it(name: str):
    x = np.resize(np.array([0, -0.0, -np.inf, -1e30, -87.5], np.float32), 16)
    assert np.array_equal(exp(x, name), np.resize(np.array([1, 1, 0, 0, 0], np.float32), 16))


AVX512 = {"avx512f", "avx512bw", "avx512vnni", "avx2", "fma", "avxvnni"}


@pytest.mark.parametrize(
    ("arch", "features", "name"),
    [
        ("x86_64", AVX512, "avx512vnni"),
        ("amd64", AVX512, "avx512vnni"),
        ("x86_64", AVX512 - {"avx512vnni"}, "avxvnni"),
        ("x86_64", {"avx512f", "avx512bw", "avx2", "fma"}, "avx2"),
        ("x86_64", {"avx2", "fma"}, "avx2"),
        ("x86_64", {"avx2"}, "portable"),
        ("x86_64", set(), "portable"),
        ("aarch64", {"neon", "dotprod"}, "neon"),
        ("arm64", {"dotprod"}, "neon"),
        ("aarch64", {"neon"}, "portable"),
        ("riscv64", set(), "portable"),
    ],
)
def test_the_target_of_a_machine(arch: str, features: set[str], name: str):
    assert target_of(arch, frozenset(features)).name == name


def test_pairs_of_bfloat16_are_multiplied_where_the_machine_can():
    assert target_of("x86_64", frozenset(AVX512 | {"avx512bf16"})).pairs
    assert not target_of("x86_64", frozenset(AVX512)).pairs
    assert not target_of("x86_64", frozenset({"avx2", "fma", "avx512bf16"})).pairs


def test_codes_fit_a_byte_of_their_sign():
    for unsigned in (True, False):
        target = MachineTarget("any", unsigned, True)
        low, high = (0, 255) if unsigned else (-128, 127)
        for codes, amount in ((E2M1_CODES, 12), (range(-127, 128), 128), (INT4_CODES, 128)):
            assert all(low <= code + target.bias(amount) <= high for code in codes)
    assert tuple(TARGET.bias(amount) for amount in (12, 128, 128)) == BIAS


def test_arm_gets_its_own_dot_products_and_look_ups():
    binding.initialize_all_targets()
    binding.initialize_all_asmprinters()
    triple = "aarch64-unknown-linux-gnu"
    module = ir.Module("arm")
    module.triple = triple
    function = ir.Function(module, ir.FunctionType(ir.VoidType(), [POINTER] * 3), "dot")
    e = Emit(ir.IRBuilder(function.append_basic_block()), MachineTarget("neon", False, True))
    sums, packed, values = function.args
    codes, _ = e.lookup_nibbles(E2M1_CODES, e.load(packed, BYTES))
    e.store(e.dot4(e.load(sums, WORDS), codes, e.load(values, WORDS)), sums)
    e.b.ret_void()
    machine = binding.Target.from_triple(triple).create_target_machine(cpu="neoverse-n1", features="+dotprod", opt=3)
    assembly = machine.emit_assembly(binding.parse_assembly(str(module)))
    assert assembly.count("sdot") == 4
    assert assembly.count("tbl") >= 4
