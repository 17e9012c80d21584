"""Whether numbers keep to their bounds in every spelling: each spelling of many is tried on the matcher of decoding.

Bounds of all kinds are drawn by chance; the oracle is exact arithmetic on fractions. "Wrongly allowed" is a spelling
outside the schema that the grammar allows; "wrongly refused" a plain decimal spelling inside that it does not.
Run: python benchmarks/bounds.py [spellings]
"""

import random
import re
import sys
import time
from collections import Counter
from collections.abc import Iterator
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

from llguidance import LLMatcher

from ossia.harmony.enforce import SchemaError
from ossia.harmony.grammar import GrammarCache

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # tests import this file as benchmarks.bounds
from benchmarks.schemas import small

PLAIN = re.compile(r"-?(?:0|[1-9]\d*)(?:\.\d+)?")
WHOLE = re.compile(r"-?(?:0|[1-9]\d*)")
PER_SCHEMA = 200
STEPS = (
    *(1, 2, 3, 5, 7, 9, 10, 12, 25, 26, 60, 64, 77, 91, 100, 128, 256, 360, 997),
    *(0.5, 0.1, 0.01, 0.25, 0.05, 2.5, 1.5, 0.3, 0.7, 0.75, 0.125, 1e-3, 1e-8),
)
SPECIAL = (0, 1, -1, 0.25, 9.999, 0.999, -0.001, 1e-7, 10, 9, 99, 100, 0.1, -10.5, 2**53, 1e15, 1e300, 1e-300, 5e-324)


def number(rng: random.Random) -> int | float:
    """A bound as JSON may hold it: whole or decimal, near 0 or far from it."""
    kind = rng.random()
    if kind < 0.15:
        return rng.choice(SPECIAL)
    if kind < 0.5:
        return rng.randint(-(10 ** rng.randint(0, 6)), 10 ** rng.randint(0, 6))
    value = rng.randint(-(10 ** rng.randint(1, 7)), 10 ** rng.randint(1, 7))
    return float(Decimal(value).scaleb(-rng.randint(0, 8)))


def schema(rng: random.Random) -> dict[str, Any]:
    """Numbers or integers with bounds on one side or both, open or not, near each other or not, and multiples."""
    found: dict[str, Any] = {"type": rng.choice(("number", "number", "integer"))}
    low = number(rng)
    near = rng.choice((1, 0.5, 0.1, 0.01, 0.001, 0, 10, 1000))
    high = float(Decimal(repr(low)) + Decimal(repr(near))) if rng.random() < 0.4 else number(rng)
    if low > high:
        low, high = high, low
    if rng.random() < 0.8:
        found[rng.choice(("minimum", "exclusiveMinimum"))] = low
    if rng.random() < 0.8 or len(found) == 1:
        found[rng.choice(("maximum", "exclusiveMaximum"))] = high
    if rng.random() < 0.3:
        found["multipleOf"] = rng.choice(STEPS)
    return found


def fits(schema: dict[str, Any], value: Fraction, text: str) -> bool:
    """Whether the number belongs to the schema; an integer is written without a fraction."""

    def of(keyword: str) -> Fraction:
        return Fraction(Decimal(repr(schema[keyword])))

    return (
        ("minimum" not in schema or value >= of("minimum"))
        and ("exclusiveMinimum" not in schema or value > of("exclusiveMinimum"))
        and ("maximum" not in schema or value <= of("maximum"))
        and ("exclusiveMaximum" not in schema or value < of("exclusiveMaximum"))
        and ("multipleOf" not in schema or (value / of("multipleOf")).denominator == 1)
        and (schema["type"] == "number" or WHOLE.fullmatch(text) is not None)
    )


def spelling(schema: dict[str, Any], rng: random.Random) -> str:
    """A spelling near a bound or anywhere: cut, padded, nudged in a digit, with an exponent, or a negative zero."""
    bounds = [schema[each] for each in schema if each not in ("type", "multipleOf")]
    base = Decimal(repr(rng.choice(bounds or [0])))
    if "multipleOf" in schema and rng.random() < 0.6:
        step = Decimal(repr(schema["multipleOf"]))
        base = step * int(base / step + rng.randint(-3, 3)) if abs(base) < 10**15 else base
    text = format(base, "f")
    luck = rng.random()
    if luck < 0.45:
        text = _nudged(text, rng)
    elif luck < 0.6:
        text = format(base + Decimal(rng.randint(-20, 20)).scaleb(-rng.randint(0, 6)), "f")
    elif luck < 0.7:
        text = format(Decimal(rng.randint(-(10**6), 10**6)).scaleb(-rng.randint(0, 7)), "f")
    elif luck < 0.75:
        text = rng.choice(("-0", "0", "-0.0", "0.000", "1", "-1", "00", "1.", "+1", ".5", "--1", "1e0", "-"))
    elif luck < 0.9:
        text = f"{text}{'' if '.' in text else '.'}{'0' * rng.randint(1, 3)}"
    if rng.random() < 0.15:
        shift = rng.randint(-3, 3)
        text = rng.choice((f"{text}e{shift}", f"{text}E{shift:+d}", f"{text}e0", f"{text}e-{'0' * rng.randint(1, 2)}1"))
    return text


def _nudged(text: str, rng: random.Random) -> str:
    at = rng.randrange(len(text))
    kind = rng.randrange(5)
    if kind == 0:
        return text[:at] or "0"
    if kind == 1:
        return text[:at] + str(rng.randint(0, 9)) + text[at + 1 :]
    if kind == 2:
        return text[:at] + str(rng.randint(0, 9)) + text[at:]
    if kind == 3:
        return text + ("" if "." in text else ".") + str(rng.randint(0, 9))
    return text.removeprefix("-") if text.startswith("-") else f"-{text}"


def value_of(text: str) -> Fraction | None:
    """The number that a JSON text is; None for what is none."""
    if not re.fullmatch(r"-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?", text):
        return None
    return Fraction(Decimal(text))


def allows(matcher: LLMatcher, tokens: list[int]) -> bool:
    found = matcher.try_consume_tokens(tokens)
    allowed = found == len(tokens) and matcher.is_accepting()
    matcher.rollback(found)
    return allowed


def cases(grammars: GrammarCache, count: int, seed: int) -> Iterator[tuple[dict[str, Any], str, bool, bool]]:
    """Schemas with spellings, whether each fits, and whether the grammar allows it."""
    rng = random.Random(seed)
    tokens = grammars.tokenizer.encode
    while count > 0:
        given = schema(rng)
        texts = {spelling(given, rng) for _ in range(PER_SCHEMA)}
        try:
            matcher = grammars.matcher(given)
        except SchemaError as error:
            refused = [text for text in texts if (value := value_of(text)) is not None and fits(given, value, text)]
            if refused and "multiple" not in error.why:
                raise RuntimeError(f"{given} is refused ({error.why}), but {refused[0]} fits") from error
            continue
        for text in texts:
            value = value_of(text)
            yield given, text, value is not None and fits(given, value, text), allows(matcher, tokens(text))
        count -= len(texts)


def study(grammars: GrammarCache, count: int, seed: int = 0) -> tuple[Counter[str], list[str]]:
    counts: Counter[str] = Counter()
    wrong: list[str] = []
    for given, text, fit, allowed in cases(grammars, count, seed):
        counts["spellings"] += 1
        counts["allowed"] += allowed
        counts["plain and fitting"] += fit and PLAIN.fullmatch(text) is not None
        if allowed and not fit:
            counts["wrongly allowed"] += 1
            wrong.append(f"allowed: {text} for {given}")
        if fit and not allowed and PLAIN.fullmatch(text):
            counts["wrongly refused"] += 1
            wrong.append(f"refused: {text} for {given}")
    return counts, wrong


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 2_000_000
    grammars, started = GrammarCache(small()), time.perf_counter()
    counts, wrong = study(grammars, count)
    seconds = time.perf_counter() - started
    for name in ("spellings", "allowed", "plain and fitting", "wrongly allowed", "wrongly refused"):
        print(f"{name}: {counts[name]}")
    print(f"{seconds:.0f} s")
    print(*wrong[:20], sep="\n")


if __name__ == "__main__":
    main()
