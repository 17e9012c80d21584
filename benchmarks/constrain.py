"""What the mask of a turn costs with gpt-oss's vocabulary: set-up, compiling a schema, a step in JSON, in headers, in text.

A step is `accept` and the `mask` after it. Run: python benchmarks/constrain.py
"""

import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import TypeVar

from ossia.harmony.grammar import GrammarCache, TurnGrammar
from ossia.harmony.messages import ToolNamespace, ToolSpec
from ossia.tokenizer.tokenizer import Tokenizer
from ossia.tokenizer.tokenizer_json import o200k_harmony

Result = TypeVar("Result")
SCHEMA = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "minLength": 1},
        "days": {"type": "integer", "minimum": 0, "maximum": 14},
        "unit": {"enum": ["celsius", "fahrenheit"]},
        "tags": {"type": "array", "items": {"type": "string"}},
    },
    "required": ["city", "days", "unit"],
    "additionalProperties": False,
}
TURN = (
    ("header", "<|channel|>analysis<|message|>"),
    ("free text", "The user asks for the weather in Kyoto over three days, so the function is called once.<|end|>"),
    ("header", "<|start|>assistant<|channel|>commentary to=functions.get_weather <|constrain|>json<|message|>"),
    ("JSON", '{"city": "Kyoto", "days": 3, "unit": "celsius", "tags": ["rain", "wind", "明日の天気"]}<|call|>'),
)


def timed(work: Callable[[], Result]) -> tuple[Result, float]:
    started = time.perf_counter()
    return work(), time.perf_counter() - started


def steps(rules: TurnGrammar, tokenizer: Tokenizer, turns: int) -> dict[str, list[float]]:
    """Seconds of each step, by what the mask that it made was for."""
    tokens = [(part, token) for part, text in TURN for token in tokenizer.encode_with_special(text)]
    costs: defaultdict[str, list[float]] = defaultdict(list)
    for _ in range(turns):
        turn = rules.start()
        for (_, token), (following, _) in pairwise(tokens):
            started = time.perf_counter()
            turn.accept(token)
            turn.mask()
            costs[following].append(time.perf_counter() - started)
        assert not turn.strayed
    return costs


def row(label: str, seconds: Sequence[float], unit: str) -> str:
    ordered = [each * {"ms": 1e3, "µs": 1e6}[unit] for each in sorted(seconds)]
    if len(ordered) == 1:
        return f"| {label} | {ordered[0]:.0f} {unit} | |"
    return f"| {label} | {statistics.fmean(ordered):.1f} {unit} | {ordered[int(0.99 * len(ordered))]:.1f} {unit} |"


def functions(count: int) -> tuple[ToolNamespace, ...]:
    """get_weather, and others whose names begin in the same way."""
    names = ["get_weather", *(f"get_weather_of_place_{number}" for number in range(1, count))]
    return (ToolNamespace("functions", None, tuple(ToolSpec(name, "", SCHEMA) for name in names)),)


def main() -> None:
    tokenizer = Tokenizer(o200k_harmony())
    grammars, tables = timed(lambda: GrammarCache(tokenizer))
    rules, first = timed(lambda: TurnGrammar(grammars, functions(1)))
    fresh = [{**SCHEMA, "title": str(number)} for number in range(100)]
    compiling = [timed(lambda schema=schema: grammars.matcher(schema))[1] for schema in fresh]
    again = [timed(lambda: grammars.matcher(SCHEMA))[1] for _ in range(100)]
    few, many = steps(rules, tokenizer, 100), steps(TurnGrammar(grammars, functions(128)), tokenizer, 20)
    print("| what | mean | 99th percentile |")
    print("|---|---|---|")
    print(row("tables of a tokenizer, once", [tables], "ms"))
    print(row("llguidance's tables, once, with the first schema", [first], "ms"))
    print(row("compiling a schema", compiling, "ms"))
    print(row("a schema compiled before", again, "µs"))
    for part in ("JSON", "header", "free text"):
        print(row(f"a step in {'a header, 1 function declared' if part == 'header' else part}", few[part], "µs"))
    print(row("a step in a header, 128 functions declared", many["header"], "µs"))


if __name__ == "__main__":
    main()
