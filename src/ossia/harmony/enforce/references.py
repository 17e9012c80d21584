"""Resolves references of a schema by URI, anchor and JSON pointer, inside the schema only. Nothing is downloaded.

In: a schema and its draft. Out: the schema that a reference means, given the URI it is relative to.
"""

from collections.abc import Iterator, Mapping
from typing import Any, TypeAlias
from urllib.parse import unquote, urldefrag, urljoin

from ossia.harmony.enforce.errors import SchemaError
from ossia.harmony.messages import JsonObject

Found: TypeAlias = tuple[str, str, Any]  # the path, the base URI of its references, the schema
DEPTH = 100  # of nesting
SUB = ("additionalItems", "additionalProperties", "contains", "else", "if", "items", "not", "propertyNames", "then",
       "unevaluatedItems", "unevaluatedProperties")  # fmt: skip
SUBS = ("allOf", "anyOf", "oneOf", "prefixItems", "items")
NAMED = ("$defs", "definitions", "properties", "patternProperties", "dependentSchemas", "dependencies")


class References:
    """All places in a schema that a reference may lead to."""

    def __init__(self, root: JsonObject, draft: int) -> None:
        self.draft = draft
        self.found: dict[str, Found] = {}  # by path and by URI
        self.bases: dict[int, str] = {}  # by id(schema); the root keeps all schemas alive
        self.dynamic: dict[str, int] = {}  # the number of dynamic anchors by name
        self._index(root, "#", "", 0)

    def _index(self, schema: Any, path: str, base: str, depth: int) -> None:
        """Index all places that a reference may lead to."""
        if depth > DEPTH:
            raise SchemaError("", path[:60], f"the schema is nested more than {DEPTH} deep")
        if not isinstance(schema, Mapping):
            self.found[path] = (path, base, schema)
            return
        own = schema.get("$id")
        if isinstance(own, str) and not own.startswith("#") and not (self.draft < 2019 and "$ref" in schema):
            base = _join(base, own).removesuffix("#")
            self.found.setdefault(base, (path, base, schema))
        self.found[path] = (path, base, schema)
        self.bases[id(schema)] = base
        for key in ("$anchor", "$dynamicAnchor", "$id"):
            name = schema.get(key)
            if isinstance(name, str) and (key != "$id" or name.startswith("#")):
                self.found.setdefault(f"{base}#{name.removeprefix('#')}", (path, base, schema))
        if isinstance(name := schema.get("$dynamicAnchor"), str):
            self.dynamic[name] = self.dynamic.get(name, 0) + 1
        for steps, each in _subschemas(schema):
            self._index(each, below(path, *steps), base, depth + 1)

    def resolve(self, reference: str, base: str) -> Found | None:
        """The schema that a reference means; None if there is none."""
        uri, fragment = urldefrag(_join(base, reference))
        start = self.found.get(uri or "#")
        if not start or not fragment:
            return start
        if fragment.startswith("/"):
            return self._pointed(start, unquote(fragment))
        return self.found.get(f"{uri}#{fragment}")

    def _pointed(self, start: Found, pointer: str) -> Found | None:
        """The target of a JSON pointer, in schemas or elsewhere."""
        path, base, target = start
        if path + pointer in self.found:
            return self.found[path + pointer]
        for step in pointer[1:].split("/"):
            step = step.replace("~1", "/").replace("~0", "~")
            if isinstance(target, Mapping) and step in target:
                target = target[step]
            elif isinstance(target, list) and step.isascii() and step.isdigit() and int(step) < len(target):
                target = target[int(step)]
            else:
                return None
            base = self.bases.get(id(target), base)
        self._index(target, path + pointer, base, pointer.count("/"))
        return self.found[path + pointer]

    def followed(self, schema: Mapping[str, Any]) -> Any:
        """The target of a schema's reference; None if it leads nowhere."""
        base = self.bases.get(id(schema), "")
        target = self.resolve(reference, base) if isinstance(reference := schema["$ref"], str) else None
        if target is None:
            return None
        rest = {key: value for key, value in schema.items() if key != "$ref" and self.draft >= 2019}
        return {"allOf": [target[2], rest]} if rest else target[2]


def _subschemas(schema: Mapping[str, Any]) -> Iterator[tuple[tuple[object, ...], Any]]:
    for key in SUB:
        if isinstance(each := schema.get(key), Mapping | bool):
            yield (key,), each
    for key in SUBS:
        if isinstance(found := schema.get(key), list):
            yield from (((key, number), each) for number, each in enumerate(found))
    for key in NAMED:
        if isinstance(found := schema.get(key), Mapping):
            yield from (((key, name), each) for name, each in found.items() if not isinstance(each, list))


def below(path: str, *steps: object) -> str:
    return "/".join((path, *(str(step).replace("~", "~0").replace("/", "~1") for step in steps)))


def _join(base: str, reference: str) -> str:
    # urljoin drops the base of a URN
    return base + reference if reference.startswith("#") else urljoin(base, reference)
