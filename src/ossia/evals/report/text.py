"""A result as a person reads it in a terminal.

In: a result. Out: text: one block for each effort.
"""

from collections.abc import Mapping, Sequence
from typing import Any

VERDICTS = {
    "consistent": "consistent with the published value",
    "not shown to differ": "not shown to differ; repeats would tell more",
    "above": "above the published value",
    "below": "below the published value",
}

MOST_SHOWN = 12  # entries of a figure, such as one for each subject


def as_text(result: Mapping[str, Any]) -> str:
    """The whole report of one benchmark."""
    blocks = [f"{result['benchmark']} · {result['model']}"]
    for effort, each in result["efforts"].items():
        blocks += _block(effort, each)
    if judge := result.get("judge"):
        blocks.append(_judge_line(judge))
    blocks += [f"data: {warning}" for warning in result.get("data_warnings", ())]
    if left_out := result.get("solver", {}).get("left_out"):
        blocks.append(f"the endpoint refused these fields, so they were left out: {', '.join(left_out)}")
    if result.get("comparable"):
        blocks.append(f"comparable: {result['comparable']}")
    return "\n".join(blocks)


def _block(effort: str, each: Mapping[str, Any]) -> list[str]:
    lines = [f"  {effort}: no try was answered"]
    if "score" in each:
        same = each["same_questions"]
        held = _interval(same) if same else "needs repeats"
        tries = f"{each['questions']} questions, {each['tries']} tries"
        lines = [
            f"  {effort}: {each['score']:.1f}   ({tries})",
            f"    95 % interval: same questions {held}; questions as a sample {_interval(each['questions_as_sample'])}",
        ]
        lines += [f"    published: {_published_line(one)}" for one in each["published"]]
        lines += [f"    {name}: {_short(value)}" for name, value in each["further"].items()]
    shares = ", ".join(f"{name} {each[name]:.1%}" for name in ("cut", "unanswered", "unextracted", "malformed"))
    lines.append(f"    {shares}, errors {each['errors']}")
    tokens = "; ".join(
        f"{name} tokens: mean {each[f'{name}_tokens']['mean']:.0f}, 95th percentile {each[f'{name}_tokens']['p95']}"
        for name in ("reasoning", "final")
    )
    lines.append(f"    {tokens}; calls a sample {each['calls']:.2f}")
    lines += [f"    warning: {warning}" for warning in each["warnings"]]
    return lines


def _interval(bounds: Sequence[float]) -> str:
    return f"[{bounds[0]:.1f}, {bounds[1]:.1f}]"


def _published_line(one: Mapping[str, Any]) -> str:
    note = f"; {one['note']}" if one["note"] else ""
    verdict = f": {VERDICTS[one['verdict']]}" if one["verdict"] else ""
    return f"{one['value']:g} {one['model']} {one['effort']} ({one['source']}{note}){verdict}".replace("  ", " ")


def _short(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.3g}"
    if isinstance(value, Mapping):
        shown = [f"{name} {_short(each)}" for name, each in list(value.items())[:MOST_SHOWN]]
        left = len(value) - len(shown)
        return ", ".join([*shown, *([f"and {left} more in result.json"] if left else [])])
    return str(value)


def _judge_line(judge: Mapping[str, Any]) -> str:
    agreement = judge.get("agreement")
    known = f"{agreement[0]} of {agreement[1]} calibration items" if agreement else "no calibration items"
    own = ", self-judged" if judge["self_judged"] else ""
    return f"judge: {judge['name']}{own}; prompts {judge['prompts'][:12]}; agreement: {known}"
