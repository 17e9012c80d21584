"""How much of the JSON Schema Test Suite a grammar can keep, and whether all that is sampled under it fits.

Every schema that compiles is played by chance: tokens are drawn from what the mask allows, and each finished text is
judged by jsonschema and jsonschema-rs. Then every value that the suite calls invalid is tried in several spellings.
The suite stands in shared/data beside the checkout: github.com/json-schema-org/JSON-Schema-Test-Suite.
Run: python benchmarks/schemas.py [samples per schema] [--o200k]
"""

import json
import random
import re
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from decimal import Decimal, localcontext
from functools import lru_cache
from pathlib import Path
from typing import Any

import jsonschema
import jsonschema_rs
from llguidance import LLMatcher
from referencing import Registry, Resource
from referencing.jsonschema import DRAFT202012

from ossia.harmony.enforce import SchemaError
from ossia.harmony.grammar import GrammarCache
from ossia.tokenizer.tokenizer import Tokenizer
from ossia.tokenizer.tokenizer_json import HARMONY_TOKENS, Vocabulary, o200k_harmony

SUITE = Path(__file__).resolve().parents[2] / "shared/data/json_schema_test_suite"
VALIDATORS = {"draft7": jsonschema.Draft7Validator, "draft2020-12": jsonschema.Draft202012Validator}
DRAFT7 = "http://json-schema.org/draft-07/schema#"
LENGTH = 250  # of a text, in tokens; what is longer is cut and not judged
# What Python's re reads in another way than ECMAScript: jsonschema-rs judges it instead
ECMASCRIPT = re.compile(r"\\\\[pPwWsSdDcu]")
CLOSING = frozenset((b'"', b"}", b"]", b","))
PLAIN = frozenset(bytes([byte]) for byte in b"\"}],:{[0123456789.eE-+abfox\\u_ '") | {b"\n"}


@dataclass(frozen=True)
class Group:
    """A schema of the suite with its tests."""

    draft: str
    optional: bool
    name: str
    schema: Any
    tests: list[dict[str, Any]]


@dataclass
class Counts:
    """What became of the schemas of a draft."""

    schemas: int = 0
    compiled: int = 0
    unfit: int = 0  # no value fits them
    refused: Counter[str] = field(default_factory=Counter)  # by keyword
    judged: int = 0
    cut: int = 0
    wrong: list[str] = field(default_factory=list)
    tried: int = 0  # spellings of invalid values
    compiling: list[float] = field(default_factory=list)
    masks: list[float] = field(default_factory=list)


def groups(suite: Path) -> Iterator[Group]:
    for draft in VALIDATORS:
        for path in sorted((suite / "tests" / draft).rglob("*.json")):
            for case in json.loads(path.read_text("utf-8")):
                schema = case["schema"]
                if isinstance(schema, bool):
                    schema = {"allOf": [schema]}
                if draft == "draft7" and "$schema" not in schema:
                    schema = {"$schema": DRAFT7, **schema}
                name = f"{draft}/{path.name}: {case['description']}"
                yield Group(draft, "optional" in path.parts, name, schema, case["tests"])


def small() -> Tokenizer:
    """256 bytes as tokens: any text can be spelt in one way alone."""
    ranks = {bytes([byte]): byte for byte in range(256)}
    special = {name: len(ranks) + number for number, name in enumerate(HARMONY_TOKENS)}
    return Tokenizer(Vocabulary(ranks, r"\p{N}| ?\p{L}+|[^\p{L}\p{N}]+", special))


class Player:
    """Draws texts that a grammar allows, with a leaning to such as end, and asks whether it allows a given one."""

    def __init__(self, grammars: GrammarCache) -> None:
        self.grammars, self.end = grammars, grammars.ret
        self.text = grammars.tokenizer.token_bytes
        self.listed = lru_cache(maxsize=256)(self._listed)

    def _listed(self, mask: bytes) -> tuple[list[int], list[int], list[int]]:
        tokens = [
            8 * found.start() + bit
            for found in re.finditer(b"[^\\0]", mask)
            for bit in range(8)
            if found[0][0] >> bit & 1
        ]
        ordinary = [token for token in tokens if token != self.end]
        return ordinary, *([t for t in ordinary if self.text(t) in kind] for kind in (CLOSING, PLAIN))

    def play(self, matcher: LLMatcher, rng: random.Random, masks: list[float]) -> bytes | None:
        """A text, or None where it grew too long."""
        said: list[int] = []
        while len(said) < LENGTH:
            started = time.perf_counter()
            mask = bytes(matcher.compute_bitmask())
            masks.append(time.perf_counter() - started)
            if matcher.is_error():
                return None
            tokens, closing, plain = self.listed(mask)
            may_end = mask[self.end >> 3] >> (self.end & 7) & 1
            if may_end and (not tokens or rng.random() < 0.4):
                return b"".join(map(self.text, said))
            luck = rng.random()
            said.append(rng.choice(closing if closing and luck < 0.35 else plain if plain and luck < 0.93 else tokens))
            matcher.consume_token(said[-1])
        return None

    def allows(self, matcher: LLMatcher, text: str) -> bool:
        try:
            tokens = self.grammars.tokenizer.encode(text)
        except UnicodeEncodeError:  # half a surrogate pair: no token says that
            return False
        return matcher.try_consume_tokens(tokens) == len(tokens) and matcher.is_accepting()


def judge(group: Group, suite: Path) -> Callable[[bytes | str], bool]:
    """Whether a text is a value of the schema.

    jsonschema says so, with exact numbers. jsonschema-rs knows ECMAScript's patterns, and more of the formats.
    """

    def fetch(uri: str) -> Any:
        return json.loads((suite / "remotes" / uri.removeprefix("http://localhost:1234/")).read_text("utf-8"))

    registry: Registry[Any] = Registry(retrieve=lambda uri: Resource.from_contents(fetch(uri), DRAFT202012))
    validator = VALIDATORS[group.draft]
    exact = json.loads(json.dumps(group.schema), parse_float=Decimal)
    theirs = validator(exact, registry=registry, format_checker=validator.FORMAT_CHECKER)
    other = jsonschema_rs.validator_for(group.schema, retriever=fetch, validate_formats=True)
    written = json.dumps(group.schema)
    patterns, formats = bool(ECMASCRIPT.search(written)), '"format": ' in written

    def fits(text: bytes | str) -> bool:
        if (patterns or formats) and not other.is_valid(json.loads(text)):
            return False
        with localcontext(prec=2 * LENGTH):
            return patterns or theirs.is_valid(json.loads(text, parse_float=Decimal))

    return fits


def spellings(value: Any) -> Iterator[str]:
    """The ways to write a value: as usual, in ASCII, its first letters escaped, its first property said twice."""
    text = json.dumps(value, ensure_ascii=False)
    yield text
    yield json.dumps(value)
    yield re.sub(
        r'"([^"\\\x00-\x1f])', lambda found: f'"\\u{ord(found[1]):04x}' if ord(found[1]) < 65536 else found[0], text
    )
    yield re.sub(r'^\{("[^"]*": [^,{}\[\]]+)', r"{\1, \1", text)


def study(group: Group, player: Player, samples: int, seed: int, counts: Counts, suite: Path = SUITE) -> None:
    counts.schemas += 1
    started = time.perf_counter()
    try:
        matcher = player.grammars.matcher(group.schema)
    except SchemaError as error:
        if "no value fits" in error.why or "Unsatisfiable" in error.why:
            counts.unfit += 1
        else:
            counts.refused[error.keyword] += 1
        return
    counts.compiling.append(time.perf_counter() - started)
    counts.compiled += 1
    fits, rng = judge(group, suite), random.Random(seed)
    for _ in range(samples):
        text = player.play(matcher.deep_copy(), rng, counts.masks)
        counts.cut += text is None
        if text is not None:
            counts.judged += 1
            if not fits(text):
                counts.wrong.append(f"{group.name}: sampled {text!r}")
    for test in group.tests:
        if not test["valid"]:
            for text in {*spellings(test["data"])}:
                counts.tried += 1
                if player.allows(matcher.deep_copy(), text) and not fits(text):
                    counts.wrong.append(f"{group.name}: allows {text!r}")


def percentile(values: list[float], share: float) -> float:
    return sorted(values)[int(share * (len(values) - 1))] if values else 0.0


def main() -> None:
    if not SUITE.is_dir():
        raise SystemExit(f"{SUITE} is missing: put the JSON Schema Test Suite there")
    samples = next((int(each) for each in sys.argv[1:] if each.isdigit()), 200)
    player = Player(GrammarCache(Tokenizer(o200k_harmony()) if "--o200k" in sys.argv else small()))
    player.grammars.matcher({"type": "null"})  # makes llguidance's tables
    table: dict[tuple[str, bool], Counts] = {}
    for number, group in enumerate(groups(SUITE)):
        study(group, player, samples, number, table.setdefault((group.draft, group.optional), Counts()))
    heads = "schemas of, all, compile, nothing fits, refused, outputs judged, cut, invalid spellings tried, wrong"
    print(f"| {heads.replace(', ', ' | ')} |\n|{'---|' * 9}")
    for (draft, optional), one in table.items():
        share = f"{one.compiled} ({100 * one.compiled / one.schemas:.0f} %)"
        cells = (one.schemas, share, one.unfit, one.refused.total(), one.judged, one.cut, one.tried, len(one.wrong))
        print(f"| {draft}, {'optional' if optional else 'required'} | {' | '.join(map(str, cells))} |")
    refused = sum((one.refused for one in table.values()), Counter[str]())
    print("\nrefused:", ", ".join(f"{keyword or 'other'} {count}" for keyword, count in refused.most_common()))
    compiling = [each for one in table.values() for each in one.compiling]
    masks = [each for one in table.values() for each in one.masks]
    for what, times, unit in (("compiling", compiling, 1e3), ("a mask", masks, 1e6)):
        shown = [f"{share:.0%}: {percentile(times, share) * unit:.2f}" for share in (0.5, 0.99, 1.0)]
        print(f"{what}, {'ms' if unit == 1e3 else 'µs'}: {', '.join(shown)}")
    for one in table.values():
        print(*one.wrong, sep="\n", end="\n" if one.wrong else "")


if __name__ == "__main__":
    main()
