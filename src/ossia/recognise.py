"""Recognises what a path or name is, before any large file is read: a checkpoint, or something else with its remedy.

In: a user's model name, a local path, or a config.json. Out: the folder to open, or an error with the next command. It
downloads nothing and opens no weights.
"""

import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ossia.files import FileError, is_lfs_pointer, read_object, shown

EXAMPLE = "openai/gpt-oss-20b"
_MAX_NAMES = 10_000  # the most entries of a folder that are examined
_BARE = re.compile(r"(?:openai/)?gpt-oss(-safeguard)?(?:[-:](20b|120b|latest))?(?::latest)?", re.I)
_ADDRESS = re.compile(r"(?:https?://)?(?:www\.)?(?:huggingface\.co|hf\.co)/([^/\s]+/[^/\s?#]+)(?:/tree/[^/]+)?/?")
_COMMIT = re.compile(r"[0-9a-zA-Z][0-9a-zA-Z._-]*")
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
_ARCHIVES = (".zip", ".tar", ".tgz", ".tar.gz", ".gz", ".7z", ".xz", ".zst")
# quant_method in config.json: the name in messages
_METHODS = {
    "bitsandbytes": "bitsandbytes", "awq": "AWQ", "gptq": "GPTQ", "fp8": "FP8", "fbgemm_fp8": "FP8", "hqq": "HQQ",
    "compressed-tensors": "compressed-tensors", "modelopt": "NVIDIA ModelOpt", "quark": "Quark", "torchao": "torchao",
    "auto-round": "AutoRound", "exl2": "EXL2", "exl3": "EXL3", "eetq": "EETQ", "aqlm": "AQLM",
}  # fmt: skip


class NotACheckpointError(FileError):
    """A path holds something else than a checkpoint. The message says what it is, and what to do."""


def hub_name(name: str) -> str:
    """The hub's name of a model: "gpt-oss:20b" is openai/gpt-oss-20b; a URL is reduced to its name."""
    if match := _ADDRESS.fullmatch(name.strip()):
        name = match[1]
    if match := _BARE.fullmatch(name.strip()):
        size = (match[2] or "20b").lower()
        return f"openai/gpt-oss{(match[1] or '').lower()}-{'20b' if size == 'latest' else size}"
    return name


def folder_of(path: Path, *, weights: bool = True) -> Path:
    """The checkpoint folder of a local path: itself, the folder of a weight file, or a snapshot in a cache.

    weights: whether they must be present. Raises NotACheckpointError for anything else, with the next command.
    """
    if not path.is_dir():
        path = _folder_of_file(path)
    path = _snapshot(path)
    names = _names(path)
    inner = _weights_within(path, names)
    if inner is None and weights:
        raise NotACheckpointError(_what_else(path, names))
    if inner is None and not {"config.json", "tokenizer.json"} & names:
        raise NotACheckpointError(_what_else(path, names))
    where = inner or path
    config = where / "config.json"
    if os.path.lexists(config):
        check_config(read_object(config), where)
    elif (where / "hf_quant_config.json").exists():
        raise _quantized(where, "NVIDIA ModelOpt", {})
    return path


def check_config(config: Mapping[str, Any], where: object) -> None:
    """Raise NotACheckpointError for a config.json of another architecture, or with unsupported weights."""
    own = config.get("quantization")
    given = config.get("quantization_config")
    if isinstance(own, dict) and "bits" in own:
        raise _mlx(where, config)
    if isinstance(given, dict):
        method = given.get("quant_method")
        if method is None and "bits" in given and "group_size" in given:
            raise _mlx(where, config)
        if isinstance(method, str) and method.lower() != "mxfp4":
            raise _quantized(where, _method(method.lower(), given), config)
    kind = config.get("model_type")
    if kind is not None and kind != "gpt_oss" and "rope_scaling_factor" not in config:
        raise NotACheckpointError(
            f"{where} is a model of the architecture {shown(kind)} (model_type in config.json); Ossia runs gpt-oss models, "
            f"whose model_type is 'gpt_oss': for example `ossia chat -m {EXAMPLE}`"
        )


def check_listing(names: Iterable[str], where: object) -> None:
    """Raise NotACheckpointError if a repository's files contain no checkpoint that Ossia reads."""
    held = {name for name in names if "/" not in name}
    if not any(name.endswith(".safetensors") and not name.startswith("adapter_") for name in held):
        raise NotACheckpointError(_from_names(where, held) or f"{where} has no *.safetensors: it holds no checkpoint")


def _folder_of_file(path: Path) -> Path:
    """The folder of a file that belongs to a checkpoint. Raises for any other file."""
    if not path.exists():
        raise FileNotFoundError(f"no file or folder {path}")
    if not path.is_file():
        raise NotACheckpointError(f"{path} is neither a file nor a folder: give a checkpoint's folder")
    name = path.name.lower()
    if is_lfs_pointer(path):
        raise NotACheckpointError(f"{path} is a git-lfs pointer, not the weights: run `git lfs pull` in {path.parent}")
    if name.startswith("adapter_"):
        raise NotACheckpointError(_adapter(path.parent))
    if name.endswith((".safetensors", ".safetensors.index.json")) or name in ("config.json", "tokenizer.json"):
        return path.parent
    if name.endswith(".gguf") or _begins(path, b"GGUF"):
        raise NotACheckpointError(_gguf(path))
    if name.endswith(_ARCHIVES) or (_begins(path, b"PK\x03\x04") and not name.endswith(_PICKLES)):
        raise NotACheckpointError(f"{path} is an archive: unpack it, and give the folder with config.json in it")
    if name.endswith(".onnx"):
        raise NotACheckpointError(_onnx(path))
    if name.endswith(_PICKLES):
        raise NotACheckpointError(_pickle(path))
    raise NotACheckpointError(f"{path} is a file: give a checkpoint's folder, with config.json and *.safetensors in it")


def _snapshot(path: Path) -> Path:
    """The snapshot of a repository folder in the Hugging Face cache (refs/main, else the newest); else the path
    itself.
    """
    if path.name == "snapshots" and path.parent.name.startswith("models--"):
        path = path.parent
    if not (path / "snapshots").is_dir():
        return path
    try:
        with (path / "refs" / "main").open(encoding="utf-8") as file:
            commit = file.read(200).strip()
    except (OSError, ValueError):
        commit = ""
    if _COMMIT.fullmatch(commit) and (path / "snapshots" / commit).is_dir():
        return path / "snapshots" / commit
    snapshots = [each for each in (path / "snapshots").iterdir() if each.is_dir()]
    if not snapshots:
        raise NotACheckpointError(
            f"{path} is a repository of the Hugging Face cache without a snapshot: fetch it again"
        )
    return max(snapshots, key=lambda each: (each.stat().st_mtime, each.name))


def _names(folder: Path) -> set[str]:
    with os.scandir(folder) as entries:
        return {entry.name for entry, _ in zip(entries, range(_MAX_NAMES), strict=False)}


def _weights_within(folder: Path, names: set[str]) -> Path | None:
    """The folder of the weights: this one, or original/ below it. Raises for a git-lfs pointer."""
    for place, held in ((folder, names), (folder / "original", None)):
        if held is None:
            held = _names(place) if "original" in names and place.is_dir() else set()
        weights = sorted(n for n in held if n.endswith(".safetensors") and not n.startswith("adapter_"))
        for name in weights:
            if is_lfs_pointer(place / name):
                raise NotACheckpointError(
                    f"{place / name} is a git-lfs pointer, not the weights: run `git lfs pull` in {place}"
                )
        if weights:
            return place
    return None


def _what_else(folder: Path, names: set[str]) -> str:
    """What a folder without weights is."""
    if not names:
        return f"{folder} is empty: give a checkpoint's folder, or a name such as {EXAMPLE}"
    if {"adapter_config.json", "adapter_model.safetensors"} & names:
        return _adapter(folder)
    if found := _from_names(folder, names):
        return found
    inner = sorted(n for n in names if (folder / n).is_dir())
    if run := _run_folder(folder, names, inner):
        return run
    below = [n for n in inner[:100] if _weights_within(folder / n, _names(folder / n))]
    if below:
        more = f" or {', '.join(below[1:4])}" if len(below) > 1 else ""
        return f"{folder} holds no checkpoint itself; {below[0]}/ in it does{more}: give -m {folder / below[0]}"
    if any(n.startswith("models--") for n in inner):
        held = sorted(n.removeprefix("models--").replace("--", "/", 1) for n in inner if n.startswith("models--"))
        return f"{folder} is a Hugging Face cache: give a model's name, such as -m {held[0]}"
    if "config.json" in names:
        config = read_object(folder / "config.json")
        check_config(config, folder)
        return f"{folder} has config.json and no weights (*.safetensors): its download did not finish; fetch it again"
    if {"tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"} & names:
        return f"{folder} holds a tokenizer and no model: give the folder that has config.json and *.safetensors too"
    return f"{folder} has no *.safetensors, here or in original/: it holds no checkpoint"


def _from_names(where: object, names: set[str]) -> str | None:
    """What a set of file names shows about a folder or repository."""
    if {"adapter_config.json", "adapter_model.safetensors"} & names:
        return f"{where} is an adapter, not a model: download it, then `ossia merge FOLDER MERGED` and -m MERGED"
    endings = {name.rpartition(".")[2].lower() for name in names}
    if "gguf" in endings:
        return _gguf(where)
    if "npz" in endings and "config.json" in names:
        return f"{where} holds an MLX checkpoint (weights.npz): use the Hugging Face one, `ossia chat -m {EXAMPLE}`"
    if "onnx" in endings or "onnx" in names:
        return _onnx(where)
    if "distcp" in endings or any(f".{ending}" in _PICKLES for ending in endings):
        return _pickle(where)
    if packed := sorted(name for name in names if name.lower().endswith(_ARCHIVES)):
        return f"{where} holds an archive, {packed[0]}: unpack it, and give the folder with config.json in it"
    return None


def _run_folder(folder: Path, names: set[str], inner: list[str]) -> str | None:
    """A message for a training run's folder, of Ossia or transformers."""
    if "recipe.toml" in names or {"sft", "rl", "pretrain"} & set(inner):
        made = next((n for n in ("model", "adapter") if n in inner), None)
        if made == "model":
            return f"{folder} is a training run's folder: its model is -m {folder / 'model'}"
        if made == "adapter":
            return f"{folder} is a training run's folder: merge its adapter, `ossia merge {folder / 'adapter'} MERGED`"
        return f"{folder} is a training run's folder without a finished model: run `ossia train` to its end"
    states = sorted((int(n[11:]), n) for n in inner if n.startswith("checkpoint-") and n[11:].isdecimal())
    if states:
        return f"{folder} is a training run's folder: give one of its checkpoints, such as -m {folder / states[-1][1]}"
    return None


def _adapter(folder: Path) -> str:
    try:
        base = read_object(folder / "adapter_config.json").get("base_model_name_or_path")
    except FileError:
        base = None
    over = f" over {base}" if isinstance(base, str) and base and len(base) < 300 else ""
    return f"{folder} is an adapter{over}, not a model: `ossia merge {folder} MERGED`, then -m MERGED"


def _gguf(where: object) -> str:
    return f"{where} is in the GGUF format, which Ossia does not read: use the Hugging Face checkpoint, `ossia chat -m {EXAMPLE}`"


def _onnx(where: object) -> str:
    return f"{where} is in the ONNX format, which Ossia does not read: use the Hugging Face checkpoint, `ossia chat -m {EXAMPLE}`"


def _pickle(where: object) -> str:
    return (
        f"{where} holds PyTorch's own files (.bin, .pt, .pth), which can run code and are not read: save the model as "
        "safetensors, `model.save_pretrained(FOLDER)` in transformers"
    )


def _mlx(where: object, config: Mapping[str, Any]) -> NotACheckpointError:
    return NotACheckpointError(
        f"{where} is an MLX checkpoint (quantization with group_size and bits in config.json), which Ossia does not read: "
        f"use the Hugging Face one, `ossia chat -m {_published(config)}`"
    )


def _method(method: str, given: Mapping[str, Any]) -> str:
    if method == "bitsandbytes":
        return "bitsandbytes " + ("4-bit" if given.get("load_in_4bit", given.get("_load_in_4bit")) else "8-bit")
    called = _METHODS.get(method, shown(method))
    kind = given.get("quant_algo") or given.get("format")
    for name in ("nvfp4", "fp8", "float-quantized", "int-quantized", "pack-quantized"):
        if isinstance(kind, str) and name in kind.lower():
            return f"{name.upper() if len(name) < 6 else name} ({called})"
    return called


def _quantized(where: object, how: str, config: Mapping[str, Any]) -> NotACheckpointError:
    return NotACheckpointError(
        f"{where} is quantized with {how}, which Ossia does not read (MXFP4, BF16, F16 and F32 it does): use the model "
        f"that it was made from, or the published one, -m {_published(config)}"
    )


def _published(config: Mapping[str, Any]) -> str:
    return "openai/gpt-oss-120b" if config.get("num_hidden_layers") == 36 else EXAMPLE


def _begins(path: Path, magic: bytes) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(len(magic)) == magic
    except OSError:
        return False
