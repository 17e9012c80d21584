"""Two runs of one benchmark compared, question by question.

In: the folders of two runs. Out: a JSON object with the difference by effort, and text.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ossia.evals.core.run_log import RunLogError, read_rows, read_run
from ossia.evals.report.results import questions_of
from ossia.evals.stats.comparison import paired_difference
from ossia.task import EFFORTS


def compare_runs(first: Path, second: Path) -> dict[str, Any]:
    """The first run minus the second, at each effort that both have. Raises RunLogError if they cannot be compared."""
    one, two = (read_run(folder)["config"] for folder in (first, second))
    if one["benchmark"] != two["benchmark"]:
        raise RunLogError(
            f"{first} is a run of {one['benchmark']}, {second} of {two['benchmark']}: compare one benchmark"
        )
    rows = [read_rows(folder) for folder in (first, second)]
    efforts: dict[str, Any] = {}
    for effort in EFFORTS:
        ours, theirs = ([row.graded() for row in each if row.effort == effort] for each in rows)
        if ours and theirs:
            difference = paired_difference(questions_of(ours), questions_of(theirs))
            efforts[effort] = {**difference._asdict(), "significant": difference.significant}
    if not efforts:
        raise RunLogError(f"{first} and {second} have no effort in common")
    differing = [name for name in one if one[name] != two.get(name)]
    return {"benchmark": one["benchmark"], "differs_in": differing, "efforts": efforts}


def compared_text(compared: Mapping[str, Any], scale: float = 100.0) -> str:
    """The comparison as a person reads it."""
    lines = [
        f"{compared['benchmark']}: first minus second; runs differ in {', '.join(compared['differs_in']) or 'nothing'}"
    ]
    for effort, each in compared["efforts"].items():
        low, high = (scale * bound for bound in each["sampled"])
        same = each["same"]
        held = f"[{scale * same[0]:+.1f}, {scale * same[1]:+.1f}]" if same else "needs repeats"
        verdict = "differs" if each["significant"] else "not shown to differ"
        lines.append(
            f"  {effort}: {scale * each['value']:+.1f} ({scale * each['first']:.1f} against {scale * each['second']:.1f}, "
            f"{each['questions']} questions); 95 % interval over questions [{low:+.1f}, {high:+.1f}], "
            f"same questions {held}: {verdict}"
        )
    return "\n".join(lines)
