"""The Python blocks on the page of clients, each run in its client's own environment against ossia-mini."""

import re
import subprocess
from pathlib import Path

import pytest

from ossia.loading import load
from tests.clients.environments import Client, cache_folder, prepare
from tests.support.live import live
from tests.test_docs import ADDRESS, ROOT, blocks

pytestmark = [pytest.mark.clients, pytest.mark.timeout(900)]
PACKAGES = {
    "litellm": Client("litellm", "pip", ("litellm==1.110.2",), ""),
    "langchain_openai": Client("langchain", "pip", ("langchain-openai==1.7.4",), ""),
    "llama_index": Client("llama-index", "pip", ("llama-index-llms-openai-like==0.8.1",), ""),
}
BLOCKS = {
    re.findall(r"^from (\w+)", code, re.MULTILINE)[0]: code for code in blocks(ROOT / "docs/clients.md", "python")
}


def test_C9_every_block_has_an_environment():
    assert set(BLOCKS) == set(PACKAGES)


@pytest.mark.parametrize("package", PACKAGES)
def test_C9_a_block_runs_as_it_stands(package: str, tmp_path: Path):
    home = prepare(PACKAGES[package], cache_folder())
    with live(load("ossia-mini")) as url:
        (tmp_path / "block.py").write_text(BLOCKS[package].replace(ADDRESS, url), "utf-8")
        words = [str(home / "bin" / "python"), "block.py"]
        done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "42" in done.stdout
