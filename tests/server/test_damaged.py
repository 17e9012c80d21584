"""M10: weights that are damaged are the server's fault, not the request's: 500, with the engine's words."""

import shutil
from pathlib import Path

import httpx
import pytest
import torch
from safetensors.torch import load_file, save_file

from ossia.hub import MINI, find
from ossia.loading import load
from tests.support.live import live

BODIES = {
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 5},
    "/v1/responses": {"input": "hi", "max_output_tokens": 16},
    "/v1/messages": {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 5},
    "/v1/completions": {"prompt": "hi", "max_tokens": 5},
}


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("damaged") / "mini"
    shutil.copytree(find(MINI), folder)
    tensors: dict[str, torch.Tensor] = load_file(folder / "model.safetensors")
    tensors["model.norm.weight"][0] = float("nan")
    (folder / "model.safetensors").unlink()
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    with live(load(Path(folder))) as url:
        yield url


@pytest.mark.parametrize("path", BODIES)
def test_M10_damaged_weights_are_a_500(address: str, path: str):
    answer = httpx.post(address + path, json=BODIES[path], timeout=120)
    assert answer.status_code == 500, answer.text
    assert "its weights are damaged" in answer.text
    assert answer.headers["x-should-retry"] == "false"
