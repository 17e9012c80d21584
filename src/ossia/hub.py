"""Finds a model's files: in the package, in a folder, or downloaded from the Hugging Face hub.

In: "ossia-mini", a folder, or a name such as "openai/gpt-oss-20b". Out: a folder of complete, checked files.
`ossia.recognise` first recognises what a path is.
"""

import importlib.resources
from pathlib import Path

from ossia.files import FileError, read_object
from ossia.hub_check import check_files, is_known_whole
from ossia.recognise import check_config, check_listing, folder_of, hub_name

MINI = "ossia-mini"
OTHERS = ["original/*", "metal/*", "onnx/*"]  # other layouts of the same weights
SETTINGS, EVERYTHING = ["*.json"], ["*.json", "*.safetensors"]
_INDEX = "model.safetensors.index.json"


def find(path_or_name: str | Path, *, weights: bool = True) -> Path:
    """The folder of a model; downloaded from the Hugging Face hub if the name is not a folder.

    weights: False downloads only the configuration and the tokenizer. Raises FileNotFoundError if there is no such
    model, and ValueError, with the next command, for anything but a checkpoint that Ossia reads.
    """
    name = str(path_or_name)
    if name == MINI:
        config = Path(str(importlib.resources.files("ossia") / "mini" / "config.json"))
        return config.resolve().parent  # installers may link the package's files individually
    try:
        if (path := Path(path_or_name).expanduser()).exists():
            return folder_of(path, weights=weights)
    except (RuntimeError, ValueError) as error:  # an unknown "~user", or a null character
        if isinstance(error, FileError):
            raise
        raise FileNotFoundError(f"no model at {name!r}: {error}") from error
    name = hub_name(name)
    if isinstance(path_or_name, Path) or name.count("/") != 1 or name.startswith((".", "/", "~")):
        raise FileNotFoundError(
            f"no model at {name!r}: give a checkpoint's folder, a Hugging Face name (openai/gpt-oss-20b) or {MINI!r}"
        )
    return _download(name, weights=weights)


def _download(name: str, *, weights: bool) -> Path:
    """Download a model's files with huggingface_hub. Interrupted downloads resume; each file is checked by its hash.

    A complete local copy is used without contacting the hub. HF_ENDPOINT, HF_HOME, HF_HUB_CACHE and HF_HUB_OFFLINE
    apply.
    """
    folder = _local(name, weights)
    if folder is None:
        folder = _fetched(name, SETTINGS)
        check_files(name, folder, OTHERS)
        _check_settings(name, folder)
        folder = _fetched(name, EVERYTHING) if weights else folder
        check_files(name, folder, OTHERS, whole=weights)
    else:
        check_files(name, folder, OTHERS)
        _check_settings(name, folder)
    return folder


def _local(name: str, weights: bool) -> Path | None:
    """The snapshot in the cache, if it holds all needed files."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    patterns = EVERYTHING if weights else SETTINGS
    try:
        folder = Path(snapshot_download(name, allow_patterns=patterns, ignore_patterns=OTHERS, local_files_only=True))
    except (LocalEntryNotFoundError, HfHubHTTPError):
        return None
    except HFValidationError as error:
        raise FileNotFoundError(f"no model {name!r}: {_one_line(error)}") from error
    if is_known_whole(folder):
        return folder
    if not all((folder / file).exists() for file in ("config.json", "tokenizer.json")):
        return None
    return folder if not weights or _has_weights(folder) else None


def _has_weights(folder: Path) -> bool:
    if (folder / _INDEX).exists():
        shards = read_object(folder / _INDEX, 16 << 20).get("weight_map")
        return isinstance(shards, dict) and all(
            isinstance(s, str) and (folder / s).exists() for s in set(shards.values())
        )
    return (folder / "model.safetensors").exists()


def _fetched(name: str, patterns: list[str]) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, allow_patterns=patterns, ignore_patterns=OTHERS))
    except LocalEntryNotFoundError as error:
        raise FileNotFoundError(
            f"model {name!r} is not on this machine and the hub is out of reach: {_one_line(error)}"
        ) from error
    except HfHubHTTPError as error:
        raise FileNotFoundError(f"the hub has no model {name!r} for you: {_one_line(error)}") from error


def _check_settings(name: str, folder: Path) -> None:
    """Refuse an unsupported model before its weights are downloaded."""
    if (folder / "config.json").exists():
        check_config(read_object(folder / "config.json"), name)
    elif not any(folder.rglob("*.safetensors")):
        from huggingface_hub import HfApi

        check_listing(HfApi().list_repo_files(name, revision=folder.name), name)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
