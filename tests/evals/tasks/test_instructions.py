"""IFEval as a benchmark, over invented prompts and the held ones."""

import json
from pathlib import Path

import pytest

from ossia.evals.tasks.instructions import BENCHMARKS
from tests.support.data_sets import shared
from tests.support.evals import ScriptedAnswers, graded, mean

(IFEVAL,) = BENCHMARKS
WORDS = ["moss", "river", "stone", "cloud", "ember"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    (folder / "ifeval").mkdir()
    names = ["keywords:existence", "punctuation:no_comma"]
    rows = [
        {
            "key": key,
            "prompt": f"Use no comma. Use: {word}",
            "instruction_id_list": names,
            "kwargs": [{"keywords": [word]}, {}],
        }
        for key, word in enumerate(WORDS)
    ]
    (folder / "ifeval/input_data.jsonl").write_text("\n".join(map(json.dumps, rows)), "utf-8")
    return folder


def test_a_perfect_model_is_always_right_and_a_wrong_one_never(data: Path):
    perfect = graded(IFEVAL, ScriptedAnswers(lambda ask: str(ask.messages[-1]["content"]).split(": ")[1]), data)
    wrong = graded(IFEVAL, ScriptedAnswers(lambda ask: "A comma, and nothing else"), data)
    half = graded(IFEVAL, ScriptedAnswers(lambda ask: "moss, river, stone, cloud, ember"), data)
    assert (mean(perfect), mean(wrong), mean(half)) == (1, 0, 0)
    assert IFEVAL.aggregate(half) == {
        "prompt_strict": 0, "instruction_strict": 0.5, "prompt_loose": 0, "instruction_loose": 0.5,
    }  # fmt: skip
    assert set(IFEVAL.aggregate(perfect).values()) == {1}


def test_the_held_prompts_all_have_checkers():
    samples = list(IFEVAL.load(shared("ifeval").parent))
    assert len(samples) == 541
    assert sum(len(sample.meta["instructions"]) for sample in samples) == 834
