"""Where a model's files are: embedded in the package, in a folder, or fetched from the Hugging Face hub.

In: "ossia-mini", a folder, or a name such as "openai/gpt-oss-20b". Out: a folder of complete, checked files.
It does not know what is in them.
"""

import hashlib
import importlib.resources
from pathlib import Path

MINI = "ossia-mini"
OTHERS = ["original/*", "metal/*", "onnx/*"]  # other layouts of the same weights


def find(path_or_name: str | Path, *, weights: bool = True) -> Path:
    """The folder of a model, downloaded from the Hugging Face hub when the name is no folder here.

    weights: False fetches only the configuration and the tokenizer.
    """
    name = str(path_or_name)
    if name == MINI:
        return Path(str(importlib.resources.files("ossia") / "mini"))
    if (folder := Path(path_or_name).expanduser()).is_dir():
        return folder
    if isinstance(path_or_name, Path) or name.count("/") != 1 or name.startswith((".", "/", "~")):
        raise FileNotFoundError(
            f"no model at {name!r}: give a checkpoint's folder, a Hugging Face name (openai/gpt-oss-20b) or {MINI!r}"
        )
    return download(name) if weights else download_settings(name)


def download_settings(name: str) -> Path:
    """Fetch a model's *.json files alone. What is on this machine already is used without asking the hub."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        folder = Path(snapshot_download(name, allow_patterns=["*.json"], local_files_only=True))
        if (folder / "config.json").exists() and (folder / "tokenizer.json").exists():
            return folder
    except LocalEntryNotFoundError:
        pass
    return _fetched(name, ["*.json"])


def download(name: str) -> Path:
    """Fetch a model's files through huggingface_hub: resumed where broken off, each weight file checked by its SHA-256.

    A model that was checked once is used again without asking the hub. HF_ENDPOINT and HF_HOME are the hub's own.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    patterns = ["*.json", "*.safetensors"]
    try:
        folder = Path(snapshot_download(name, allow_patterns=patterns, ignore_patterns=OTHERS, local_files_only=True))
        if _checked_mark(folder).exists():
            return folder
    except LocalEntryNotFoundError:
        pass
    folder = _fetched(name, patterns)
    _check_weights(folder)
    return folder


def _fetched(name: str, patterns: list[str]) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, allow_patterns=patterns, ignore_patterns=OTHERS))
    except LocalEntryNotFoundError as error:
        raise FileNotFoundError(
            f"model {name!r} is not on this machine and the hub is out of reach: {error}"
        ) from error
    except HfHubHTTPError as error:
        raise FileNotFoundError(f"the hub has no model {name!r} for you: {error}") from error


def _check_weights(folder: Path) -> None:
    """The hub's cache names a large file by its SHA-256; a file that differs is removed and named."""
    for path in sorted(folder.glob("*.safetensors")):
        blob = path.resolve()
        with blob.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
        if len(blob.name) == len(digest) and blob.name != digest:
            blob.unlink()
            path.unlink(missing_ok=True)
            raise ValueError(f"{path.name} was damaged on the way and has been removed: run the command again")
    _checked_mark(folder).touch()


def _checked_mark(folder: Path) -> Path:
    return folder / ".ossia-checked"
