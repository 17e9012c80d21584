"""From a folder to a model: logits without a tokenizer, errors by name, stop tokens, both backends."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import ossia
from ossia import loading
from ossia.engine.request import ContextError
from ossia.hub import MINI, find
from ossia.kernels.triton.tools import check
from ossia.loading import choose_backend
from ossia.model.checkpoint import CheckpointError
from ossia.model.config import ModelConfig
from tests.support.checkpoints import TINY, tiny_checkpoint


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny") / "model"
    tiny_checkpoint(folder, TINY)
    return folder


def test_a_checkpoint_without_a_tokenizer_serves_logits_only(tiny: Path):
    model = ossia.load(tiny)
    logits = model.logits([1, 2, 3])
    assert (logits.shape, logits.dtype) == ((3, TINY.vocab), np.float32)
    with pytest.raises(ValueError, match=r"no tokenizer\.json"):
        ossia.Chat(model)


def test_both_backends_agree(tiny: Path):
    cpu, reference = (ossia.load(tiny, backend=name).logits(range(20)) for name in ("cpu", "reference"))
    np.testing.assert_allclose(cpu, reference, rtol=1e-4, atol=1e-4)


def test_backends_that_are_not_there_say_what_to_use(tiny: Path, monkeypatch: pytest.MonkeyPatch):
    facts = check.Facts("linux", "2.13.0+cpu", "3.9.0")
    monkeypatch.setattr(check, "facts_of_this_machine", lambda: facts)
    with pytest.raises(ValueError, match=r"backend 'triton' cannot run here: .*--backend cpu"):
        ossia.load(tiny, backend="triton")
    with pytest.raises(ValueError, match="unknown backend 'tpu'"):
        ossia.load(tiny, backend="tpu")  # type: ignore[arg-type]


def test_auto_is_the_cpu_where_there_is_no_gpu(tiny: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(check, "gpu_count", lambda: 0)
    model = ossia.load(tiny)
    assert str(model.backend) == "backend: cpu (no NVIDIA GPU found)"
    assert str(ossia.load(tiny, backend="cpu").backend) == "backend: cpu"


def test_auto_says_why_a_gpu_is_not_used(monkeypatch: pytest.MonkeyPatch):
    """A driver without torch; a torch for the CPU alone; formats that only a CPU has; a model that does not fit."""
    monkeypatch.setattr(check, "gpu_count", lambda: 1)
    monkeypatch.setattr(check, "find_spec", lambda name: None)
    assert choose_backend(TINY).reason.startswith("there is an NVIDIA GPU, but torch and triton not installed: pip ")
    monkeypatch.setattr(check, "find_spec", lambda name: name)
    monkeypatch.setattr(check, "facts_of_this_machine", lambda: check.Facts("linux", "2.13.0+cpu", "3.9.0"))
    assert choose_backend(TINY).reason.startswith("torch 2.13.0+cpu is built for the CPU alone: ")
    monkeypatch.setattr(loading, "no_gpu_reason", lambda: None)
    assert choose_backend(TINY, dense="int4").reason == "dense 'int4' is not one of backend 'triton': it has bf16, int8"
    monkeypatch.setattr(loading, "make_ops", lambda *_, **__: SimpleNamespace(free_bytes=lambda: 1 << 30))
    chosen = choose_backend(ModelConfig.preset("gpt-oss-20b"))
    assert chosen.name == "cpu"
    assert chosen.reason.startswith("this model does not fit the card: it needs ")


def test_auto_is_a_gpu_that_can_run_the_model(monkeypatch: pytest.MonkeyPatch):
    card = check.Card("NVIDIA H100", (9, 0), 80 << 30)
    facts = check.Facts("linux", "2.13.0", "3.9.0", cuda="13.0", cards=(card,))
    monkeypatch.setattr(check, "gpu_count", lambda: 1)
    for module in (check, loading):
        monkeypatch.setattr(module, "facts_of_this_machine", lambda: facts)
    monkeypatch.setattr(loading, "make_ops", lambda *_, **__: SimpleNamespace(free_bytes=lambda: 79 << 30))
    assert str(choose_backend(ModelConfig.preset("gpt-oss-20b"))) == "backend: triton (NVIDIA H100)"


def test_the_choice_imports_no_torch_without_a_gpu():
    code = (
        "import sys; from ossia.kernels.triton.tools import check; check.gpu_count = lambda: 0; "
        "from ossia.loading import choose_backend_for; choose_backend_for('ossia-mini'); print('torch' in sys.modules)"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "False"


@pytest.mark.parametrize(
    ("tokens", "said"), [([], "at least one token"), ([0, TINY.vocab], "outside the vocabulary"), ([-1], "-1")]
)
def test_bad_tokens_are_refused_by_name(tiny: Path, tokens: list[int], said: str):
    with pytest.raises(ValueError, match=said):
        ossia.load(tiny).logits(tokens)


def test_more_tokens_than_the_context_are_refused(tiny: Path):
    with pytest.raises(ContextError, match=f"context of {TINY.max_context}"):
        ossia.load(tiny).logits([0] * (TINY.max_context + 1))


def test_a_damaged_checkpoint_names_its_tensor(tiny: Path, tmp_path: Path):
    shutil.copytree(tiny, tmp_path / "broken")
    weights = tmp_path / "broken" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match=r"model\.safetensors"):
        ossia.load(tmp_path / "broken")


def test_progress_is_told_layer_by_layer(tiny: Path):
    told: list[tuple[int, int]] = []
    ossia.load(tiny, progress=lambda done, total: told.append((done, total)))
    assert told == [(i + 1, TINY.layers) for i in range(TINY.layers)]


def test_turns_end_at_call_even_where_the_file_forgets_it(tmp_path: Path):
    shutil.copytree(find(MINI), tmp_path / "mini")
    special = ossia.load().tokenizer.special
    (tmp_path / "mini" / "generation_config.json").write_text(json.dumps({"eos_token_id": special["<|return|>"]}))
    assert ossia.load(tmp_path / "mini").stop_tokens == {special["<|return|>"], special["<|call|>"]}
    (tmp_path / "mini" / "generation_config.json").write_text("{}")
    assert ossia.load(tmp_path / "mini").stop_tokens == {special["<|return|>"], special["<|call|>"]}


def test_the_package_is_light_until_something_is_used():
    assert set(ossia.__all__) <= set(dir(ossia)) | {"Chat", "Model", "converse", "load"}
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = ossia.nothing


@pytest.mark.parametrize(("kv", "warned"), [("int8", True), ("bf16", False), ("f32", False), (None, False)])
def test_M14_a_cache_in_int8_carries_a_warning(tiny: Path, kv: str | None, warned: bool):
    warnings = ossia.load(tiny, kv=kv).warnings  # type: ignore[arg-type]
    assert any("--kv int8 costs accuracy" in each for each in warnings) == warned
