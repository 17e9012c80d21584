"""How often ossia-mini calls rightly when the same parameters are declared in other forms of JSON Schema.

In: problems of each form. Out: right calls of each, with a 95 % interval. The problems, the seed and the right arguments are
the same for all forms; sampling is greedy.

    python benchmarks/declared.py 200
"""

import sys
from collections.abc import Mapping
from dataclasses import replace
from itertools import islice
from typing import Any

from ossia.evals.mini import EvalCase, evaluate
from ossia.evals.stats.intervals import wilson
from ossia.harmony.messages import Content, Developer, JsonObject, Message, ToolNamespace
from ossia.loading import load
from ossia.mini.tasks.catalogue import tasks_named

FAMILIES = ("one function", "several functions")
FORMS = ("plain", "type list", "anyOf", "nullable", "root $ref")


def parameters_in(form: str, given: JsonObject) -> JsonObject:
    properties = given.get("properties")
    if form == "root $ref":
        return {"$ref": "#/definitions/Arguments", "definitions": {"Arguments": given}}
    if not isinstance(properties, Mapping):
        return given
    return {**given, "properties": {name: _field(form, each) for name, each in properties.items()}}


def _field(form: str, schema: Mapping[str, Any]) -> Mapping[str, Any]:
    """The same field, or null."""
    kind = {key: value for key, value in schema.items() if key in ("type", "enum")}
    rest = {key: value for key, value in schema.items() if key not in kind}
    match form:
        case "type list":
            values = {"enum": [*kind["enum"], None]} if "enum" in kind else {}
            return {**schema, "type": [schema["type"], "null"], **values}
        case "anyOf":
            return {"anyOf": [kind, {"type": "null"}], **rest}
        case "nullable":
            return {**schema, "nullable": True}
    return schema


def declared_in(form: str, message: Message) -> Message:
    def spaces(of: tuple[ToolNamespace, ...]) -> tuple[ToolNamespace, ...]:
        return tuple(
            replace(
                each,
                tools=tuple(
                    tool if tool.parameters is None else replace(tool, parameters=parameters_in(form, tool.parameters))
                    for tool in each.tools
                ),
            )
            for each in of
        )

    def content(part: Content) -> Content:
        return replace(part, tools=spaces(part.tools)) if isinstance(part, Developer) else part

    return replace(message, content=tuple(map(content, message.content)))


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 200
    model = load("ossia-mini")
    for form in FORMS:
        cases = [
            EvalCase(
                task, replace(example, messages=tuple(declared_in(form, each) for each in example.messages)), "medium"
            )
            for task in tasks_named(FAMILIES)
            for example in islice(task.examples("eval/declared", "held"), count // len(FAMILIES))
        ]
        scores = evaluate(model, cases, seed=1, temperature=0.0)
        right, total = sum(each.points for each in scores), sum(each.total for each in scores)
        low, high = wilson(right, total)
        print(f"{form:<10} {right:g} of {total} ({low:.0%} to {high:.0%})", flush=True)


if __name__ == "__main__":
    main()
