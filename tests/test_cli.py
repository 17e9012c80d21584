"""The command line as a person meets it: answers, JSON, errors of one line with what to do."""

import json
import os
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

import pytest

from ossia.hub import MINI, find
from tests.support.hub import serving


def ossia(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "ossia", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, env={**os.environ, **environment})


def test_an_answer_has_reasoning_and_text():
    done = ossia("chat", "What is 17 + 25?", "--json", "--temperature", "0")
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert "42" in answer["answer"]
    assert answer["reasoning"]
    assert answer["finish"] == "stop"
    assert answer["usage"]["reasoning_tokens"] > 0


def test_the_answer_is_streamed_as_plain_text():
    done = ossia("chat", "What is 17 + 25?", "--temperature", "0", "--effort", "high")
    assert done.returncode == 0
    assert "42" in done.stdout
    assert "\x1b" not in done.stdout


def test_a_seed_repeats_an_answer():
    first, again = (ossia("chat", "What is 12 + 30?", "--seed", "3", "--json").stdout for _ in range(2))
    assert json.loads(first)["messages"] == json.loads(again)["messages"]


def test_no_torch_is_imported_to_chat():
    code = (
        "import sys; from ossia.chat import Chat; Chat().ask('What is 1 + 1?');"
        "print([n for n in sys.modules if n.split('.')[0] in ('torch', 'transformers')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == "[]", done.stderr


def test_a_tool_from_a_file_is_called(tmp_path: Path):
    (tmp_path / "mine.py").write_text(
        'def get_weather(city: str) -> dict:\n    """Get the weather of a city."""\n    return {"weather": "clear"}\n'
    )
    done = ossia(
        "chat", "What is the weather in Kyoto?", "--tools", str(tmp_path / "mine.py"), "--json", "--temperature", "0"
    )
    answer = json.loads(done.stdout)
    (call,) = [message for message in answer["messages"] if message["recipient"] == "functions.get_weather"]
    assert json.loads(call["text"]) == {"city": "Kyoto"}
    assert "clear" in answer["answer"]


def test_a_schema_shapes_the_answer(tmp_path: Path):
    schema = {
        "type": "object",
        "properties": {"n": {"type": "integer"}},
        "required": ["n"],
        "additionalProperties": False,
    }
    (tmp_path / "schema.json").write_text(json.dumps(schema))
    done = ossia("chat", "What is 2 + 2?", "--schema", str(tmp_path / "schema.json"), "--json", "--max-tokens", "300")
    answer = json.loads(done.stdout)
    assert answer["finish"] == "length" or isinstance(json.loads(answer["answer"])["n"], int)


def test_the_thinking_budget_moves_on_to_the_answer():
    answer = json.loads(
        ossia("chat", "What is 4821 + 999?", "--effort", "high", "--thinking-budget", "5", "--json").stdout
    )
    assert answer["usage"]["reasoning_tokens"] <= 8
    assert answer["finish"] == "stop"
    assert answer["answer"]


def test_a_model_is_fetched_by_name(tmp_path: Path):
    with serving("someone/mini", find(MINI)) as hub:
        done = ossia(
            "chat", "What is 2 + 3?", "-m", "someone/mini", "--json", "--temperature", "0",
            HF_ENDPOINT=hub.url, HF_HOME=str(tmp_path), HF_HUB_DISABLE_XET="1",
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert (
        json.loads(done.stdout)["answer"]
        == json.loads(ossia("chat", "What is 2 + 3?", "--json", "--temperature", "0").stdout)["answer"]
    )


def test_info_prints_exact_counts():
    out = ossia("info", "gpt-oss-120b").stdout
    assert "116,829,156,672" in out
    assert "5,132,849,472" in out
    assert "20,914,757,184" in ossia("info", "gpt-oss-20b").stdout
    assert "layers" in ossia("info", MINI).stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("chat", "hi", "-m", "nowhere"), "no model at 'nowhere'"),
        (("chat", "hi", "--effort", "huge"), "effort 'huge' is none of low, medium, high"),
        (("chat", "--json"), "--json needs a prompt"),
        (("chat", "hi", "--backend", "gpu"), "backend 'gpu' is none of auto, cpu, triton, reference"),
        (("chat", "hi", "--top-p", "0"), "top_p=0.0"),
        (("chat", "x " * 5000), "the model's context 4096"),
        (("chat", "hi", "--tools", "none.py"), "no file none.py"),
        (("chat", "hi", "--tools", "shell"), "each call asks first, and there is no terminal; give --yes"),
        (("chat", "hi", "--tools", "browser"), "the browser needs a search provider: give --search"),
        (("chat", "hi", "--tools", "python", "--sandbox", "gaol"), "no such form; give auto, root"),
        (("info", "gpt-oss-7b"), "the presets are gpt-oss-120b, gpt-oss-20b"),
        (("synth", "gpt-oss-7b", "x"), "the presets are gpt-oss-120b, gpt-oss-20b"),
        (("synth", "nowhere", "x"), "no model at 'nowhere'"),
        (("synth", "gpt-oss-20b", "x", "--layout", "zip"), "layout 'zip' is none of hf, bf16, original"),
        (("train", "none.toml"), "none.toml"),
    ],
)  # fmt: skip
def test_errors_are_one_line_that_says_what_is_wrong(arguments: tuple[str, ...], said: str):
    done = ossia(*arguments)
    assert done.returncode == 1
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    lines = [line for line in done.stderr.strip().splitlines() if not line.startswith(("backend: ", "starting: "))]
    assert len(lines) == 1


def test_synth_takes_any_shape(tmp_path: Path):
    sizes = ("--layers", "3", "--experts", "6", "--hidden", "64", "--intermediate", "96", "--vocab", "100")
    done = ossia("synth", MINI, str(tmp_path / "m"), "--layout", "original", *sizes)
    assert done.returncode == 0, done.stderr
    told = ossia("info", str(tmp_path / "m")).stdout
    assert "hidden       64" in told
    assert "6 a layer, 2 active, width 96" in told


def test_synth_writes_a_checkpoint_that_loads(tmp_path: Path):
    done = ossia("synth", "gpt-oss-20b", str(tmp_path / "m"), "--layers", "1", "--layout", "hf")
    assert done.returncode == 0, done.stderr
    assert {"config.json", "generation_config.json", "tokenizer.json"} <= {
        path.name for path in (tmp_path / "m").iterdir()
    }
    assert "layers        1" in ossia("info", str(tmp_path / "m")).stdout.replace("layers       1", "layers        1")


def test_C6_slow_imports_are_said_on_stderr(capsys: pytest.CaptureFixture[str]):
    from ossia.cli.common import starting

    with starting():
        time.sleep(1.3)
    shown = capsys.readouterr()
    assert shown.err.startswith("starting: loading libraries (")
    assert shown.out == ""
    with starting():
        pass
    assert capsys.readouterr().err == ""


def test_C6_a_user_without_a_home_hears_what_to_give(monkeypatch: pytest.MonkeyPatch):
    from ossia.cli.common import state_folder
    from ossia.kernels.cpu.codegen import jit

    def nowhere() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", nowhere)
    with pytest.raises(ValueError, match=r"no home folder: set HOME, .*--state or --no-state"):
        state_folder()
    assert jit._folder.__wrapped__("") is not None  # beside the source


def test_M14_a_cache_in_int8_is_warned_of_once_on_stderr(capsys: pytest.CaptureFixture[str]):
    from ossia.cli.common import load_model

    for kv, count in (("int8", 1), ("f32", 0)):
        load_model("ossia-mini", "cpu", kv=kv)
        shown = capsys.readouterr()
        assert shown.err.count("warning: --kv int8 costs accuracy") == count
        assert shown.out == ""


def test_the_version_is_printed():
    done = ossia("--version")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == f"ossia {version('ossia')}"
