"""Finding a model's files: embedded, in a folder, or from a hub (a fake one on loopback)."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ossia.hub import MINI, find
from tests.fake_hub import Hub, serving

NAME = "fake/tiny"


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    folder = tmp_path / "repository"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "README.md").write_text("not needed to run")
    (folder / "model.safetensors").write_bytes(os.urandom(1 << 20) * 24)
    return folder


def fetch(home: Path, url: str, name: str = NAME) -> subprocess.CompletedProcess[str]:
    """In a process of its own: huggingface_hub reads its address when it is imported."""
    code = f"from ossia.hub import find; print(find({name!r}))"
    env = {**os.environ, "HF_ENDPOINT": url, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1"}
    return subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=120)


def fetched_weights(hub: Hub) -> list[str | None]:
    return [part for method, path, part in hub.requests if method == "GET" and path.endswith(".safetensors")]


def test_the_embedded_model_and_folders_are_found_without_a_hub(tmp_path: Path):
    assert find(MINI).name == "mini"
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


def test_damaged_weights_are_named_removed_and_fetched_again(tmp_path: Path, repository: Path):
    with serving(NAME, repository, damage=True) as hub:
        bad = fetch(tmp_path / "home", hub.url)
        assert bad.returncode != 0
        assert "model.safetensors was damaged on the way" in bad.stderr
        hub.damage = False
        good = fetch(tmp_path / "home", hub.url)
        assert good.returncode == 0, good.stderr


def test_an_unknown_name_and_a_hub_out_of_reach_are_clear_errors(tmp_path: Path, repository: Path):
    with serving(NAME, repository) as hub:
        unknown = fetch(tmp_path / "home", hub.url, "fake/other")
        assert "FileNotFoundError: the hub has no model 'fake/other' for you" in unknown.stderr
    away = fetch(tmp_path / "home", "http://127.0.0.1:9")
    assert "FileNotFoundError: model 'fake/tiny' is not on this machine and the hub is out of reach" in away.stderr
