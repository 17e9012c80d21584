"""Writes shapes as one llguidance grammar, in Lark syntax.

In: `Shapes`. Out: the text of a grammar for exactly the JSON whose values fit. Properties come in their declared
order, undeclared ones last, unless any order is allowed.
"""

import json
import re
from collections.abc import Iterable, Sequence

from ossia.harmony.enforce.language import ANYTHING, Language, Not, alt, both, literal, plain_terminal, string_terminal
from ossia.harmony.enforce.multiples import multiples
from ossia.harmony.enforce.numbers import FREE, spellings, written
from ossia.harmony.enforce.shapes import (
    AnyValue,
    Array,
    Booleans,
    Named,
    Null,
    Number,
    Object,
    Shape,
    ShapeError,
    Shapes,
    String,
    Union,
)

RULES = 100_000
MOST_EXACT = 6  # the most properties in any order that are each allowed once: 2 ** 6 rules
COUNTED = 1_000  # the most items or properties that are counted one by one


class Lark:
    """Writes one grammar. space: the regular expression allowed between tokens. any_order: of an object's properties."""

    def __init__(self, shapes: Shapes, space: str, any_order: bool = False) -> None:
        self._shapes, self._space, self._any_order = shapes, space, any_order
        self._terminals: dict[str, str] = {}  # names by expression
        self._rules: dict[str, str] = {}  # names by body
        self._definitions: dict[str, str] = {}  # bodies by rule
        self._pending: list[str] = []
        self._named: dict[str, str] = {}  # rules by definition
        self._known: dict[Shape, str | None] = {}

    def text(self) -> str:
        """The grammar. Raises ShapeError if there is none."""
        start = self._node(self._shapes.root)
        if start is None:
            raise ShapeError("", "no value fits it")
        while self._pending:
            name = self._pending.pop()
            body = self._node(self._shapes.named[name])
            self._definitions[self._named[name]] = body or '""'
        head = '%llguidance {"ignore_once": true, "no_forcing": true}'
        lines = [head, f"%ignore /{self._space}/", f"start: {start}"]
        lines += [f"{name}: {body}" for name, body in self._definitions.items()]
        lines += [f"{name}: {body}" for body, name in self._rules.items()]
        lines += [f"{name}: {expression}" for expression, name in self._terminals.items()]
        used = {int(found) for each in self._terminals for found in re.findall(r"\bMULTIPLE_(\d+)\b", each)}
        lines += [line for number in sorted(used) for line in multiples(number)]
        return "\n".join(lines)

    # Names

    def _terminal(self, expression: str) -> str:
        return self._terminals.setdefault(expression, f"T{len(self._terminals)}")

    def _rule(self, body: str) -> str:
        if len(self._rules) > RULES:
            raise ShapeError("", f"its grammar has more than {RULES} rules")
        return self._rules.setdefault(body, f"r{len(self._rules)}")

    def _choice(self, ways: Sequence[str]) -> str:
        return ways[0] if len(ways) == 1 else self._rule(" | ".join(dict.fromkeys(ways)))

    # Shapes

    def _node(self, shape: Shape) -> str | None:
        """The name of a rule or terminal for the shape; None if no value fits it."""
        if shape not in self._known:
            self._known[shape] = self._write(shape) if self._shapes.fits_something(shape) else None
        return self._known[shape]

    def _write(self, shape: Shape) -> str:
        match shape:
            case Named(name):
                if name not in self._named:
                    self._named[name] = f"d{len(self._named)}"
                    self._pending.append(name)
                return self._named[name]
            case AnyValue():
                return self._any()
            case Array():
                return self._array(shape)
            case Object():
                return self._object(shape)
        return self._union(shape.ways if isinstance(shape, Union) else (shape,))

    def _union(self, ways: Iterable[Shape]) -> str:
        """Literals, numbers and strings become one terminal, so that the lexer need not choose between them."""
        leaves: list[str] = []
        nodes: list[str] = []
        for way in ways:
            if not self._shapes.fits_something(way):
                continue
            match way:
                case Null():
                    leaves.append("/null/")
                case Booleans(values):
                    leaves.append(f"/{'|'.join(json.dumps(each) for each in sorted(values))}/")
                case String():
                    leaves.append(string_terminal(way.language))
                case Number():
                    leaves.append(plain_terminal(self._number(way)))
                case _:
                    nodes.append(self._node(way) or "")
        if leaves:
            nodes.insert(0, self._terminal(" | ".join(leaves)))
        return self._choice(nodes)

    def _number(self, number: Number) -> Language:
        if number.values is not None:
            return alt(*(literal(written(value)) for value in number.values))
        settled = number.numbers.settled()
        assert settled is not None, "a number fits it"
        try:
            return spellings(settled)
        except ValueError as error:
            keyword = "minimum" if number.numbers.multiple is None else "multipleOf"
            raise ShapeError(keyword, str(error)) from error

    def _any(self) -> str:
        """Any JSON: a recursive rule."""
        if "any" not in self._definitions:
            self._definitions["any"] = ""
            leaves = self._terminal(f"/null|true|false/ | {plain_terminal(FREE)}")
            string = self._terminal(string_terminal(ANYTHING))
            item = self._rule(f'{string} ":" any')
            self._definitions["any"] = (
                f'{leaves} | {string} | "[" "]" | "[" any ("," any)* "]" | "{{" "}}" | "{{" {item} ("," {item})* "}}"'
            )
        return "any"

    def _array(self, array: Array) -> str:
        rest, high = self._node(array.rest), array.high
        first: list[str] = []
        for each in array.first[:high]:
            if (node := self._node(each)) is None:
                high = len(first)
                break
            first.append(node)
        return self._items(first, rest, array.low, high)

    def _items(self, first: Sequence[str], rest: str | None, low: int, high: int | None) -> str:
        """An array of these items, then any number of `rest`, with `low` to `high` items in total."""
        if high is not None:
            first = first[:high]
        more_low = max(0, low - len(first))
        more_high = 0 if rest is None else None if high is None else high - len(first)
        tail = ""
        if more_high != 0:
            tail = _repeated(f'"," {rest}', more_low, more_high)
        for at in reversed(range(1, len(first))):
            tail = f'"," {first[at]} {tail}'
            tail = tail if at < low else f"({tail})?"
            if at % 20 == 0:  # limits the nesting for the grammar parser
                tail = self._rule(tail)
        if first:
            inner = f"{first[0]} {tail}"
        elif more_high == 0:
            return self._rule('"[" "]"')
        else:
            again = _repeated(f'"," {rest}', max(0, more_low - 1), None if more_high is None else more_high - 1)
            inner = f"{rest} {again}"
        return self._rule(f'"[" {inner} "]"' if low > 0 else f'"[" ({inner})? "]"')

    def _object(self, shape: Object) -> str:
        declared = dict(shape.declared)
        for name in shape.required:
            declared.setdefault(name, shape.of(name))
        fields: list[tuple[str, bool]] = []
        for name, each in declared.items():
            if (node := self._node(each)) is not None:
                fields.append((f'{self._key(literal(name))} ":" {node}', name in shape.required))
        taken = Not(alt(*map(literal, declared))) if declared else ANYTHING
        others: list[str] = []
        for names, each in shape.others:
            free = both(names, taken)
            if (node := self._node(each)) is not None and not self._shapes.is_empty(free):
                others.append(f'{self._key(free)} ":" {node}')
        counts = shape.low > sum(required for _, required in fields) or shape.high is not None
        if self._any_order and not counts:
            return self._rule(f'"{{" {self._unordered(fields, others)} "}}"')
        return self._rule(f'"{{" {self._fields(fields, others, shape.low, shape.high)} "}}"')

    def _unordered(self, fields: Sequence[tuple[str, bool]], others: Sequence[str]) -> str:
        """The body of a rule: the fields in any order, and other properties between them.

        Up to MOST_EXACT fields, each comes at most once and the required ones must come: one rule for each set of
        missing fields. Beyond that, repeated and missing fields are allowed, and the tool must check them.
        """
        other = self._choice([self._rule(each) for each in others]) if others else None
        if len(fields) > MOST_EXACT:
            items = [self._rule(field) for field, _ in fields] + ([other] if other else [])
            item = self._choice(items)
            return self._rule(f'{item} ("," {item})*' if _is_needed(fields) else f'({item} ("," {item})*)?')
        rests: dict[frozenset[int], str] = {}

        def rest(missing: frozenset[int]) -> str:
            """What may follow a property while these fields are missing."""
            if missing not in rests:
                ways = [f'"," {fields[at][0]} {rest(missing - {at})}' for at in sorted(missing)]
                if not any(fields[at][1] for at in missing):
                    ways.append('""')
                more = f'("," {other})* ' if other else ""
                rests[missing] = self._rule(f"{more}({' | '.join(ways)})")
            return rests[missing]

        whole = frozenset(range(len(fields)))
        ways = [f"{fields[at][0]} {rest(whole - {at})}" for at in sorted(whole)]
        ways += [f"{other} {rest(whole)}"] if other else []
        ways += [] if _is_needed(fields) else ['""']
        return self._rule(" | ".join(ways))

    def _key(self, names: Language) -> str:
        return self._terminal(string_terminal(names))

    def _fields(self, fields: Sequence[tuple[str, bool]], others: Sequence[str], low: int, high: int | None) -> str:
        """The body of a rule: the fields in their order, then other properties, with `low` to `high` in total."""
        needed = sum(required for _, required in fields)
        counts = low > needed or high is not None
        max_count = max(low, high or 0) if counts else 1  # the largest count that must be distinguished
        if counts and max_count * len(fields) > COUNTED * 10:
            raise ShapeError("maxProperties", f"more than {COUNTED * 10} places in it would be counted")
        after = [self._others(others, low - count, high, count) for count in range(max_count + 1)]
        for field, required in reversed(fields):
            after = [self._field(field, required, after, count, max_count, high) for count in range(max_count + 1)]
        if after[0] is None:
            raise ShapeError("minProperties", "no object has this number of properties")
        return after[0]

    def _field(
        self, field: str, required: bool, after: Sequence[str | None], count: int, max_count: int, high: int | None
    ) -> str | None:
        """The rest of the object from this field on, after `count` properties."""
        rest = after[min(count + 1, max_count)] if high is None or count < high else None
        ways = [] if rest is None else [f"""{'"," ' if count else ""}{field} {rest}"""]
        skipped = after[count]
        if not required and skipped is not None:
            ways.append(skipped)
        if not ways:
            return None
        return self._rule(" | ".join(way or '""' for way in ways))

    def _others(self, others: Sequence[str], low: int, high: int | None, count: int) -> str | None:
        """The undeclared properties after `count` declared ones: `low` to `high` in total."""
        more = None if high is None else high - count
        if (more is not None and more < 0) or (low > 0 and (not others or (more is not None and more < low))):
            return None
        if not others or more == 0:
            return '""'
        item = self._choice([self._rule(each) for each in others])
        least = max(low, 0)
        if count:
            return self._rule(_repeated(f'"," {item}', least, more))
        again = _repeated(f'"," {item}', max(0, least - 1), None if more is None else more - 1)
        several = f"{item} {again}"
        return self._rule(several if least else f"({several})?")


def _is_needed(fields: Sequence[tuple[str, bool]]) -> bool:
    """Whether at least one field is required."""
    return any(required for _, required in fields)


def _repeated(item: str, low: int, high: int | None) -> str:
    """An item repeated; "" for never."""
    if high == 0:
        return ""
    mark = {0: "*", 1: "+"}.get(low, f"{{{low},}}") if high is None else f"{{{low},{high}}}"
    return f"({item}){mark}"
