"""Finding a model's files: embedded, in a folder, or from a hub (a fake one on loopback)."""

import json
import os
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from ossia.hub import MINI, find
from tests.support.checkpoints import tiny_checkpoint
from tests.support.hub import COMMIT, Hub, serving

NAME = "fake/tiny"


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    folder = tmp_path / "repository"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "README.md").write_text("not needed to run")
    (folder / "model.safetensors").write_bytes(os.urandom(1 << 20) * 24)
    return folder


@pytest.fixture
def open_path() -> Iterator[Path]:
    """A folder that other users may enter; pytest's own are private."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


def fetch(home: Path, url: str, name: str = NAME, **how: str) -> subprocess.CompletedProcess[str]:
    """In a process of its own: huggingface_hub reads its address when it is imported."""
    weights = how.pop("weights", "True")
    code = f"from ossia.hub import find; print(find({name!r}, weights={weights}))"
    env = {**os.environ, "HF_ENDPOINT": url, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1", "HOME": str(home)}
    return subprocess.run([sys.executable, "-c", code], env=env | how, capture_output=True, text=True, timeout=120)


def fetched_weights(hub: Hub) -> list[str | None]:
    return [part for method, path, part in hub.requests if method == "GET" and path.endswith(".safetensors")]


def test_the_embedded_model_and_folders_are_found_without_a_hub(tmp_path: Path):
    assert find(MINI).name == "mini"
    tiny_checkpoint(tmp_path)
    assert find(tmp_path) == tmp_path
    assert find(str(tmp_path)) == tmp_path


@pytest.mark.parametrize("name", ["nowhere", "./a/b", "/no/such/folder", "a/b/c", Path("a/b")])
def test_what_is_neither_folder_nor_name_is_an_error_that_says_what_to_give(name):
    with pytest.raises(FileNotFoundError, match="checkpoint's folder, a Hugging Face name"):
        find(name)


def test_a_name_is_downloaded_once_and_used_without_the_hub_after(tmp_path: Path, repository: Path):
    with serving(NAME, repository) as hub:
        first = fetch(tmp_path / "home", hub.url)
        assert first.returncode == 0, first.stderr
        folder = Path(first.stdout.strip())
        assert (folder / "model.safetensors").read_bytes() == (repository / "model.safetensors").read_bytes()
        assert not (folder / "README.md").exists()
        hub.requests.clear()
        assert fetch(tmp_path / "home", hub.url).stdout == first.stdout
        assert hub.requests == []


def test_a_broken_transfer_is_resumed_where_it_stopped(tmp_path: Path, repository: Path):
    with serving(NAME, repository, break_after=22 << 20) as hub:
        done = fetch(tmp_path / "home", hub.url)
        assert done.returncode == 0, done.stderr
        whole, rest = fetched_weights(hub)
        assert whole is None
        assert rest is not None
        assert int(rest.removeprefix("bytes=").split("-")[0]) > 0
    data = (Path(done.stdout.strip()) / "model.safetensors").read_bytes()
    assert data == (repository / "model.safetensors").read_bytes()


@pytest.mark.parametrize("weights", ["True", "False"])
@pytest.mark.parametrize("file", ["config.json", "tokenizer.json", "generation_config.json", "model.safetensors"])
def test_K15_an_altered_file_of_the_right_length_is_named_removed_and_fetched_again(
    tmp_path: Path, repository: Path, file: str, weights: str
):
    if file == "model.safetensors" and weights == "False":
        pytest.skip("no weights are fetched")
    for name in ("tokenizer.json", "generation_config.json"):
        (repository / name).write_text(json.dumps({"of": name}))
    with serving(NAME, repository, damage=(file,)) as hub:
        bad = fetch(tmp_path / "home", hub.url, weights=weights)
        assert bad.returncode != 0
        assert f"{file} of {NAME} was damaged or altered on the way" in bad.stderr
        assert "run the command again" in bad.stderr
        hub.damage = ()
        good = fetch(tmp_path / "home", hub.url, weights=weights)
        assert good.returncode == 0, good.stderr
        assert (Path(good.stdout.strip()) / file).read_bytes() == (repository / file).read_bytes()


def test_K15_a_cache_without_links_is_checked_by_the_hubs_listing(tmp_path: Path, repository: Path):
    with serving(NAME, repository, damage=("config.json",)) as hub:
        bad = fetch(tmp_path / "home", hub.url, HF_HUB_DISABLE_SYMLINKS="1")
        assert f"config.json of {NAME} was damaged or altered on the way" in bad.stderr
        hub.damage = ()
        good = fetch(tmp_path / "home", hub.url, HF_HUB_DISABLE_SYMLINKS="1")
        assert good.returncode == 0, good.stderr
        assert not (Path(good.stdout.strip()) / "config.json").is_symlink()


def test_K15_a_file_that_changes_in_the_cache_is_checked_again(tmp_path: Path, repository: Path):
    (repository / "tokenizer.json").write_text("{}")
    with serving(NAME, repository) as hub:
        folder = Path(fetch(tmp_path / "home", hub.url).stdout.strip())
    blob = (folder / "config.json").resolve()
    blob.chmod(0o644)
    blob.write_text("[]")
    bad = fetch(tmp_path / "home", "http://127.0.0.1:9")
    assert f"config.json of {NAME} was damaged or altered" in bad.stderr


def test_K15_what_another_tool_fetched_is_checked_too(tmp_path: Path, repository: Path):
    (repository / "tokenizer.json").write_text("{}")
    code = f"from huggingface_hub import snapshot_download; print(snapshot_download({NAME!r}))"
    with serving(NAME, repository, damage=("model.safetensors",)) as hub:
        env = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home"), "HF_HUB_DISABLE_XET": "1"}
        done = subprocess.run([sys.executable, "-c", code], env={**os.environ, **env}, capture_output=True, timeout=120)
        assert done.returncode == 0
    assert "model.safetensors of" in fetch(tmp_path / "home", "http://127.0.0.1:9").stderr


def read_only(folder: Path) -> None:
    for path in [folder, *folder.rglob("*")]:
        if not path.is_symlink():
            path.chmod(stat.S_IRUSR | stat.S_IRGRP | stat.S_IROTH | (0o111 if path.is_dir() else 0))


def as_other_user(home: Path, cache: Path, **how: str) -> subprocess.CompletedProcess[str]:
    """Find the model in a cache that is another user's, offline, with a home of one's own or none."""
    imports = "import os; from ossia.hub import find; from huggingface_hub import HfApi, snapshot_download, errors"
    code = f"{imports}; os.setgroups([]); os.setgid(65534); os.setuid(65534); print(find({NAME!r}))"
    env = {**os.environ, "HF_HUB_CACHE": str(cache), "HOME": str(home), "HF_HUB_OFFLINE": "1", **how}
    return subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=120)


@pytest.mark.skipif(not hasattr(os, "getuid") or os.getuid() != 0, reason="needs root, to become another user")
def test_M5_a_read_only_cache_of_another_user_works(open_path: Path, repository: Path):
    tmp_path = open_path
    (repository / "tokenizer.json").write_text("{}")
    with serving(NAME, repository) as hub:
        folder = Path(fetch(tmp_path / "home", hub.url).stdout.strip())
    cache = tmp_path / "home" / "hub"
    read_only(tmp_path / "home")
    own = tmp_path / "own"
    own.mkdir()
    os.chown(own, 65534, 65534)
    before = sorted(folder.iterdir())
    for home in (own, own, Path("/proc/none")):
        found = as_other_user(home, cache)
        assert found.stdout.strip() == str(folder), found.stderr
    assert sorted(folder.iterdir()) == before
    assert len(list((own / ".cache" / "ossia" / "checked").iterdir())) == 1
    (folder / "config.json").resolve().chmod(0)
    assert "config.json: cannot be read: Permission denied" in as_other_user(own, cache).stderr


def test_M5_offline_and_a_cache_elsewhere(tmp_path: Path, repository: Path):
    with serving(NAME, repository) as hub:
        first = fetch(tmp_path / "home", hub.url, HF_HUB_CACHE=str(tmp_path / "cache"))
        assert first.stdout.startswith(str(tmp_path / "cache")), first.stderr
        hub.requests.clear()
        again = fetch(tmp_path / "home", hub.url, HF_HUB_CACHE=str(tmp_path / "cache"), HF_HUB_OFFLINE="1")
        assert again.stdout == first.stdout
        missing = fetch(tmp_path / "home", hub.url, HF_HUB_OFFLINE="1")
        assert "is not on this machine and the hub is out of reach" in missing.stderr
        assert hub.requests == []


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"model_type": "gpt_oss", "quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}},
         "quantized with bitsandbytes 4-bit"),
        ({"model_type": "gpt_oss", "quantization": {"group_size": 64, "bits": 4}}, "an MLX checkpoint"),
        ({"model_type": "llama"}, "architecture 'llama'"),
    ],
)  # fmt: skip
def test_M7_what_is_not_read_is_refused_before_its_weights_are_fetched(
    tmp_path: Path, repository: Path, config: dict, said: str
):
    (repository / "config.json").write_text(json.dumps(config))
    with serving(NAME, repository) as hub:
        done = fetch(tmp_path / "home", hub.url)
        assert said in done.stderr
        assert "openai/gpt-oss-20b" in done.stderr
        assert fetched_weights(hub) == []


def test_M7_a_repository_of_gguf_files_is_named(tmp_path: Path):
    (tmp_path / "repository").mkdir()
    (tmp_path / "repository" / "model-Q4.gguf").write_bytes(b"GGUF")
    with serving(NAME, tmp_path / "repository") as hub:
        assert f"{NAME} is in the GGUF format" in fetch(tmp_path / "home", hub.url).stderr


def test_M7_a_repository_folder_of_the_cache_goes_to_its_snapshot(tmp_path: Path):
    tiny_checkpoint(tmp_path / "repository")
    with serving(NAME, tmp_path / "repository") as hub:
        folder = Path(fetch(tmp_path / "home", hub.url).stdout.strip())
    repository = tmp_path / "home" / "hub" / "models--fake--tiny"
    assert find(repository) == find(repository / "snapshots") == folder == repository / "snapshots" / COMMIT
    (repository / "refs" / "main").write_text("../../../..")
    assert find(repository) == folder
    (repository / "refs" / "main").unlink()
    assert find(repository) == folder


def test_an_unknown_name_and_a_hub_out_of_reach_are_clear_errors(tmp_path: Path, repository: Path):
    with serving(NAME, repository) as hub:
        unknown = fetch(tmp_path / "home", hub.url, "fake/other")
        assert "FileNotFoundError: the hub has no model 'fake/other' for you" in unknown.stderr
    away = fetch(tmp_path / "home", "http://127.0.0.1:9")
    assert "FileNotFoundError: model 'fake/tiny' is not on this machine and the hub is out of reach" in away.stderr
