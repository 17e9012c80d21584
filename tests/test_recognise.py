"""What a path or a name is: each thing that people give in place of a checkpoint is named, with the next command."""

import json
import os
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from ossia.hub import find
from ossia.recognise import hub_name
from tests.support.checkpoints import tiny_checkpoint

LFS = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 13761264768\n"


def config_with(folder: Path, **changes: object) -> None:
    path = tiny_checkpoint(folder) / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def files(folder: Path, **contents: str | bytes) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in contents.items():
        (folder / name.replace("__", ".")).write_bytes(content.encode() if isinstance(content, str) else content)


def zipped(folder: Path) -> None:
    folder.mkdir()
    with zipfile.ZipFile(folder / "gpt-oss.zip", "w") as archive:
        archive.writestr("config.json", "{}")


QUANTIZED = {
    "bnb 4-bit": ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "bitsandbytes 4-bit"),
    "bnb 8-bit": ({"quant_method": "bitsandbytes", "load_in_8bit": True}, "bitsandbytes 8-bit"),
    "awq": ({"quant_method": "awq", "bits": 4, "group_size": 128}, "AWQ"),
    "gptq": ({"quant_method": "gptq", "bits": 4, "group_size": 128}, "GPTQ"),
    "fp8": ({"quant_method": "fp8"}, "FP8"),
    "nvfp4 of ModelOpt": ({"quant_method": "modelopt", "quant_algo": "NVFP4"}, r"NVFP4 \(NVIDIA ModelOpt\)"),
    "nvfp4 of LLM Compressor": (
        {"quant_method": "compressed-tensors", "format": "nvfp4-pack-quantized"}, r"NVFP4 \(compressed-tensors\)",
    ),
    "int4 of LLM Compressor": ({"quant_method": "compressed-tensors", "format": "pack-quantized"}, "pack-quantized"),
    "another": ({"quant_method": "new-method"}, "'new-method'"),
}  # fmt: skip


@pytest.mark.parametrize("name", QUANTIZED)
def test_M7_weights_that_are_not_read_are_named(tmp_path: Path, name: str):
    config, said = QUANTIZED[name]
    config_with(tmp_path, quantization_config=config)
    with pytest.raises(ValueError, match=rf"quantized with {said}.*-m openai/gpt-oss-20b"):
        find(tmp_path)


@pytest.mark.parametrize(
    "changes",
    [
        {"quantization": {"group_size": 64, "bits": 4}},
        {"quantization_config": {"group_size": 32, "bits": 8, "mode": "affine"}},
        {"quantization": {"bits": 4}, "quantization_config": {"group_size": 64, "bits": 4}},
    ],
)
def test_M7_an_mlx_checkpoint_is_named(tmp_path: Path, changes: dict[str, object]):
    config_with(tmp_path, **changes, num_hidden_layers=36)
    with pytest.raises(ValueError, match=r"is an MLX checkpoint .*ossia chat -m openai/gpt-oss-120b"):
        find(tmp_path)


@pytest.mark.parametrize("kind", ["llama", "qwen3_moe", "gemma3", "mixtral"])
def test_M7_another_architecture_is_named(tmp_path: Path, kind: str):
    config_with(tmp_path, model_type=kind)
    with pytest.raises(ValueError, match=rf"architecture '{kind}' \(model_type in config.json\)"):
        find(tmp_path)


def adapter(folder: Path) -> None:
    files(
        folder,
        adapter_config__json='{"base_model_name_or_path": "openai/gpt-oss-20b"}',
        adapter_model__safetensors=b"x",
    )


OTHERS: dict[str, tuple[Callable[[Path], object], str]] = {
    "gguf folder": (lambda f: files(f, **{"gpt-oss-Q4_K_M__gguf": b"GGUF"}), "GGUF format.*ossia chat -m openai/"),
    "adapter": (adapter, r"is an adapter over openai/gpt-oss-20b.*`ossia merge .* MERGED`, then -m MERGED"),
    "empty": (lambda f: f.mkdir(), "is empty"),
    "pytorch": (lambda f: files(f, config__json="{}", pytorch_model__bin=b"PK"), r"PyTorch's own files.*safetensors"),
    "torch state": (lambda f: files(f, model__pth=b"PK"), "PyTorch's own files"),
    "distributed": (lambda f: files(f, **{"__0_0__distcp": b"PK"}), "PyTorch's own files"),
    "onnx": (lambda f: files(f / "onnx", model__onnx=b"x"), "ONNX format"),
    "onnx file inside": (lambda f: files(f, model__onnx=b"x"), "ONNX format"),
    "npz": (lambda f: files(f, config__json="{}", weights__npz=b"x"), "MLX checkpoint"),
    "zip inside": (zipped, "an archive, gpt-oss.zip: unpack it"),
    "tokenizer only": (lambda f: files(f, tokenizer__json="{}", tokenizer_config__json="{}"), "a tokenizer and no model"),
    "config only": (lambda f: files(f, config__json='{"model_type": "gpt_oss"}'), "no weights .*did not finish"),
    "one level above": (lambda f: tiny_checkpoint(f / "gpt-oss-20b"), r"gpt-oss-20b/ in it does: give -m .*/gpt-oss-20b"),
    "training run": (lambda f: [files(f, recipe__toml=""), tiny_checkpoint(f / "model")], r"its model is -m .*/model"),
    "adapter run": (lambda f: [files(f, recipe__toml=""), adapter(f / "adapter")], r"`ossia merge .*/adapter MERGED`"),
    "unfinished run": (lambda f: [files(f, recipe__toml=""), files(f / "sft", log="")], "without a finished model"),
    "trainer's run": (lambda f: [files(f / f"checkpoint-{n}", x="") for n in (500, 1000)], "-m .*/checkpoint-1000"),
    "cache": (lambda f: files(f / "models--openai--gpt-oss-20b" / "blobs", x=""), "give a model's name, such as -m openai/gpt"),
    "lfs folder": (lambda f: files(f, config__json=LFS, model__safetensors=LFS), "git-lfs pointer.*`git lfs pull` in"),
    "lfs original": (lambda f: files(f / "original", model__safetensors=LFS), "git-lfs pointer.*`git lfs pull` in"),
    "lfs config": (lambda f: files(tiny_checkpoint(f), config__json=LFS), "config.json: is a git-lfs pointer"),
    "pictures": (lambda f: files(f, photo__png=b"x"), r"no \*.safetensors, here or in original/"),
}  # fmt: skip


@pytest.mark.parametrize("name", OTHERS)
def test_M7_a_folder_of_something_else_is_named(tmp_path: Path, name: str):
    make, said = OTHERS[name]
    make(tmp_path / "it")
    with pytest.raises(ValueError, match=said) as error:
        find(tmp_path / "it")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("gpt-oss.gguf", b"GGUF", "GGUF format"),
        ("renamed.bin", b"GGUF\3\0", "GGUF format"),
        ("model.zip", b"PK\3\4", "is an archive: unpack it"),
        ("model.tar.gz", b"\x1f\x8b", "is an archive"),
        ("model.onnx", b"x", "ONNX format"),
        ("consolidated.pth", b"PK\3\4", "PyTorch's own files"),
        ("model.safetensors", LFS.encode(), "git lfs pull"),
        ("adapter_model.safetensors", b"x", "is an adapter, not a model"),
        ("notes.txt", b"x", "is a file: give a checkpoint's folder"),
    ],
)
def test_M7_a_file_of_something_else_is_named(tmp_path: Path, name: str, content: bytes, said: str):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=said):
        find(tmp_path / name)


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_M7_a_file_of_a_checkpoint_means_its_folder(tmp_path: Path, name: str):
    tiny_checkpoint(tmp_path)
    assert find(tmp_path / name) == find(str(tmp_path / name)) == tmp_path


def test_M7_a_home_folder_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    tiny_checkpoint(tmp_path / "models" / "tiny")
    assert find("~/models/tiny") == tmp_path / "models" / "tiny"
    with pytest.raises(FileNotFoundError):
        find("~nobody-of-this-name/tiny")


def test_M7_a_pipe_is_no_model(tmp_path: Path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ValueError, match="is neither a file nor a folder"):
        find(tmp_path / "pipe")


@pytest.mark.parametrize("commit", ["abc", "../../../../etc", "", "\0"])
def test_M7_a_cache_repository_without_a_usable_ref_goes_to_the_newest_snapshot(tmp_path: Path, commit: str):
    repository = tmp_path / "models--openai--gpt-oss-20b"
    for number, name in enumerate(("older", "newer")):
        folder = tiny_checkpoint(repository / "snapshots" / name)
        os.utime(folder, (number, number))
    files(repository / "refs", main=commit)
    assert find(repository).name == "newer"
    files(repository / "refs", main="older\n")
    assert find(repository).name == "older"
    shutil.rmtree(repository / "snapshots")
    (repository / "snapshots").mkdir()
    with pytest.raises(ValueError, match="without a snapshot: fetch it again"):
        find(repository)


@pytest.mark.parametrize(
    ("name", "means"),
    [
        ("gpt-oss-20b", "openai/gpt-oss-20b"),
        ("gpt-oss-120b", "openai/gpt-oss-120b"),
        ("gpt-oss:20b", "openai/gpt-oss-20b"),
        ("gpt-oss:120b", "openai/gpt-oss-120b"),
        ("gpt-oss:latest", "openai/gpt-oss-20b"),
        ("gpt-oss", "openai/gpt-oss-20b"),
        ("GPT-OSS-20B", "openai/gpt-oss-20b"),
        ("openai/gpt-oss:20b", "openai/gpt-oss-20b"),
        ("gpt-oss-safeguard:20b", "openai/gpt-oss-safeguard-20b"),
        ("https://huggingface.co/openai/gpt-oss-20b", "openai/gpt-oss-20b"),
        ("https://huggingface.co/openai/gpt-oss-20b/tree/main", "openai/gpt-oss-20b"),
        ("hf.co/someone/tuned", "someone/tuned"),
        ("someone/gpt-oss-20b", "someone/gpt-oss-20b"),
        ("gpt-oss-7b", "gpt-oss-7b"),
        ("llama3", "llama3"),
    ],
)
def test_M7_bare_names_are_the_hubs(name: str, means: str):
    assert hub_name(name) == means


def test_M7_a_folder_of_that_name_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    tiny_checkpoint(tmp_path / "gpt-oss-20b")
    assert find("gpt-oss-20b").resolve() == tmp_path / "gpt-oss-20b"
