"""Calibration items: 30 of each kind, with all labels; a judge that knows them agrees, another does not."""

import asyncio
import json
from collections import Counter

import pytest

from ossia.evals.catalogue import benchmarks
from ossia.evals.judges.calibration import Kind, calibration_items
from tests.support.evals import ScriptedJudge

KINDS: dict[Kind, set[object]] = {
    "facts": {"correct", "incorrect", "not_attempted"},
    "criteria": {True, False},
    "exam": {True, False},
}
JUDGED = [each for each in benchmarks() if "judge" in each.needs]


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_has_30_items_with_equal_shares_of_labels(kind: Kind):
    counts = Counter(item["label"] for item in calibration_items(kind))
    assert counts.keys() == KINDS[kind]
    assert set(counts.values()) == {30 // len(KINDS[kind])}


def known(prompt: str) -> str:
    """The label of the item that this prompt holds, in the form of its benchmark."""
    for kind in KINDS:
        for item in calibration_items(kind):
            texts = [str(value) for key, value in item.items() if key != "label"]
            if all(text in prompt for text in texts) and f"nswer: {item.get('answer', '')}\n" in prompt + "nswer: \n":
                label = item["label"]
                return {
                    "facts": str(label).replace("_", " "),
                    "criteria": json.dumps({"criteria_met": label}),
                    "exam": json.dumps({"correct": "yes" if label else "no"}),
                }[kind]
    raise AssertionError(prompt)


@pytest.mark.parametrize("benchmark", JUDGED, ids=lambda each: each.name)
def test_every_judged_benchmark_measures_its_judge(benchmark):
    assert benchmark.calibrate is not None
    assert asyncio.run(benchmark.calibrate(ScriptedJudge(known))) == (30, 30)
    assert asyncio.run(benchmark.calibrate(ScriptedJudge(lambda prompt: "hm"))) == (0, 30)
