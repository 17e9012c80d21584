"""Client tools of any API: how the model sees them, and the mapping of calls back to the client's names.

In: the tools and the tool choice of a request or a training row, as JSON. Out: a `Toolbox`, or an InputError. Tools
that only a provider can run are left out with a warning.
"""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import msgspec

from ossia.harmony.dialect import object_schema
from ossia.harmony.enforce.size import excess
from ossia.harmony.errors import InputError
from ossia.harmony.messages import JsonObject, ToolNamespace, ToolSpec

UNFIT = re.compile(r"[^\w./:-]|\W+$")  # not allowed in a harmony header
BUILT_IN = re.compile(r"(?:python|browser)(?:\W|$)")  # names of the model's built-in tools, which have other arguments
MAX_NAME_LENGTH = 256
MAX_TOOLS = 1024  # per request
FREE_TEXT: JsonObject = {"type": "string"}


@dataclass(frozen=True, slots=True)
class ClientTool:
    """A tool as its client knows it. custom: takes free text, which the model passes as the argument `input`."""

    name: str
    namespace: str | None = None
    custom: bool = False


@dataclass(frozen=True, slots=True)
class Toolbox:
    """The tools of a request. `called` maps the recipient of a call to the client's tool.

    choice and allowed: for `TurnOptions.tool_choice` and `TurnOptions.allowed`. warnings: what was left out, and why.
    """

    spaces: tuple[ToolNamespace, ...] = ()
    called: Mapping[str, ClientTool] = field(default_factory=dict)
    choice: str = "auto"
    allowed: frozenset[str] | None = None
    warnings: tuple[str, ...] = ()
    by_name: Mapping[tuple[str, str | None], str] = field(default_factory=dict)  # recipients, also without namespace

    def recipient(self, name: str, namespace: str | None = None) -> str:
        """The recipient of a call in the history, whether its tool is still offered or not. Some clients omit the
        namespace.
        """
        alike = self.by_name.get((name, None)) if namespace is None else None
        return self.by_name.get((name, namespace)) or alike or f"functions.{_alias(name, namespace)}"


def toolbox(tools: Sequence[Mapping[str, object]] | None, choice: object = None) -> Toolbox:
    """Read the tools and the choice of a request. Raises InputError for a tool without a usable name or schema, and
    for a choice that matches no tool that can be called.
    """
    warnings: list[str] = []
    named: dict[str, _Offer] = {}
    aliases: dict[ClientTool, str] = {}
    numbers: Counter[str] = Counter()  # the last number appended to an alias
    for offer in _offers(tools or (), warnings):
        if offer.tool in aliases:  # the last of two declarations is used
            warnings.append(f"{offer.at}: {offer.tool.name!r} is declared more than once; the last declaration is used")
        else:
            aliases[offer.tool] = _free(_alias(offer.tool.name, offer.tool.namespace), named, numbers)
        named[aliases[offer.tool]] = offer
        if len(named) > MAX_TOOLS:
            raise InputError("tools", f"there are more than {MAX_TOOLS} tools: send fewer")
    if too_large := excess({"tools": [offer.parameters for offer in named.values()]}, scale=4):
        raise InputError("tools", f"the tools' schemas are too large together: {too_large}")
    word, allowed = _choose(choice, named)
    specs = tuple(
        ToolSpec(alias, _description(alias, offer), offer.parameters, offer.strict) for alias, offer in named.items()
    )
    called = {f"functions.{alias}": offer.tool for alias, offer in named.items()}
    return Toolbox(
        (ToolNamespace("functions", None, specs),) if specs else (),
        called,
        word,
        None if allowed is None else frozenset(f"functions.{alias}" for alias in allowed),
        tuple(warnings),
        _by_name(called),
    )


def _by_name(called: Mapping[str, ClientTool]) -> dict[tuple[str, str | None], str]:
    found: dict[tuple[str, str | None], str] = {}
    for recipient, tool in called.items():
        found.setdefault((tool.name, tool.namespace), recipient)
    for recipient, tool in called.items():
        found.setdefault((tool.name, None), recipient)
    return found


class _Offer(NamedTuple):
    """A tool that can be declared. at: its place in the request. strict: its whole schema must be enforced."""

    tool: ClientTool
    description: str
    parameters: JsonObject | None
    strict: bool
    at: str


def _offers(tools: Sequence[Mapping[str, object]], warnings: list[str]) -> Iterator[_Offer]:
    if len(tools) > MAX_TOOLS:
        raise InputError("tools", f"there are {len(tools)} tools: want {MAX_TOOLS} at most")
    for number, tool in enumerate(tools):
        yield from _offer(tool, f"tools[{number}]", None, warnings)


def _offer(tool: Mapping[str, object], at: str, namespace: str | None, warnings: list[str]) -> Iterator[_Offer]:
    kind = tool.get("type")
    nested = tool.get(kind) if kind in ("function", "custom") else None  # nested in Chat Completions, else flat
    if isinstance(nested, Mapping):
        tool, at = nested, f"{at}.{kind}"
    if "input_schema" in tool and kind in (None, "custom"):  # Anthropic's form
        yield _function(tool, at, "input_schema", namespace)
        return
    match kind:
        case "function":
            yield _function(tool, at, "parameters", namespace)
        case "custom":
            yield _custom(tool, at, namespace, warnings)
        case "namespace" if namespace is None:
            name, members = _name(tool, at), tool.get("tools")
            if not isinstance(members, Sequence) or not all(isinstance(each, Mapping) for each in members):
                raise InputError(f"{at}.tools", "a namespace's tools must be an array of objects")
            for number, member in enumerate(members):
                yield from _offer(member, f"{at}.tools[{number}]", name, warnings)
        case str():
            warnings.append(f"{at}: tools of type {kind!r} are not run by this server; it was left out")
        case _:
            raise InputError(f"{at}.type", "a tool needs a type, such as 'function'")


def _function(tool: Mapping[str, object], at: str, key: str, namespace: str | None) -> _Offer:
    parameters = tool.get(key)
    if parameters is not None:
        if not isinstance(parameters, Mapping):
            raise InputError(f"{at}.{key}", "a tool's parameters must be a JSON schema of type 'object'")
        try:
            object_schema(parameters)
        except ValueError as error:
            raise InputError(f"{at}.{key}", str(error)) from error
        parameters = {**parameters, "type": "object"}
    strict = tool.get("strict") is True
    return _Offer(ClientTool(_name(tool, at), namespace), _text(tool, "description", at), parameters, strict, at)


def _custom(tool: Mapping[str, object], at: str, namespace: str | None, warnings: list[str]) -> _Offer:
    """A free-text tool. A regular expression is enforced as a schema's pattern. A Lark grammar is only shown to the
    model.
    """
    name, description, given = _name(tool, at), _text(tool, "description", at), tool.get("format")
    text = FREE_TEXT
    form = given if isinstance(given, Mapping) else {}
    form = nested if isinstance(nested := form.get("grammar"), Mapping) else form  # nested in Chat Completions
    if isinstance(definition := form.get("definition"), str):
        if form.get("syntax") == "regex":
            text = {"type": "string", "pattern": f"^(?:{definition})$"}
        else:
            description += f"\nThe input must fit this {form.get('syntax', '')} grammar:\n{definition}"
            warnings.append(f"{at}: the grammar of {name!r} is shown to the model, but not enforced")
    schema = {"type": "object", "properties": {"input": text}, "required": ["input"], "additionalProperties": False}
    return _Offer(ClientTool(name, namespace, custom=True), description, schema, True, at)


def _name(tool: Mapping[str, object], at: str) -> str:
    name = tool.get("name")
    if not isinstance(name, str) or not 0 < len(name) <= MAX_NAME_LENGTH:
        raise InputError(f"{at}.name", f"a tool needs a name of 1 to {MAX_NAME_LENGTH} characters")
    return name


def _text(tool: Mapping[str, object], key: str, at: str) -> str:
    text = tool.get(key)
    if text is not None and not isinstance(text, str):
        raise InputError(f"{at}.{key}", f"{key} must be a string")
    return text or ""


def _alias(name: str, namespace: str | None) -> str:
    """A name that is valid in a header and is not a built-in tool's."""
    whole = UNFIT.sub("_", name if namespace is None else f"{namespace}__{name}")
    return f"client_{whole.replace('.', '_')}" if BUILT_IN.match(whole) else whole


def _free(alias: str, taken: Mapping[str, object], numbers: Counter[str]) -> str:
    """The alias, or the first numbered one that is free."""
    free = alias
    while free in taken:
        numbers[alias] += 1
        free = f"{alias}_{numbers[alias] + 1}"
    return free


def _description(alias: str, offer: _Offer) -> str:
    """The description, with the client's name for the tool if it differs: instructions may use it."""
    if alias == offer.tool.name:
        return offer.description
    return f"{offer.description}\nAlso known as: {offer.tool.name}".strip()


def _choose(choice: object, named: Mapping[str, _Offer]) -> tuple[str, set[str] | None]:
    """The value for `TurnOptions.tool_choice`, and the aliases that may be called if not all may."""
    match choice:
        case None | "" | "auto" | {"type": "auto"}:
            return "auto", None
        case "none" | {"type": "none"}:
            return "none", None
        case "required" | "any" | {"type": "any"}:
            return _must(named), None
        case {"type": "allowed_tools", "allowed_tools": {"tools": [*tools], **rest}}:
            return _allowed(tools, rest.get("mode"), named)
        case {"type": "allowed_tools", "tools": [*tools], **rest}:
            return _allowed(tools, rest.get("mode"), named)
        case {"type": "function" | "custom" | "tool"}:
            return f"functions.{_find(choice, named)}", None
        case {"type": str(kind)}:
            raise InputError("tool_choice", f"tool_choice: tools of type {kind!r} are not run by this server")
    wanted = "'auto', 'none', 'required', or an object that names a tool"
    raise InputError("tool_choice", f"tool_choice must be {wanted}")


def _must(names: Mapping[str, object] | set[str]) -> str:
    if not names:
        raise InputError("tool_choice", "tool_choice 'required' needs at least one tool that can be called")
    return "required"


def _allowed(tools: Sequence[object], mode: object, named: Mapping[str, _Offer]) -> tuple[str, set[str]]:
    """The allowed tools. Tools that are not run here are skipped, as in the tools list."""
    ours = (None, "function", "custom")
    allowed = {_find(each, named) for each in tools if not isinstance(each, Mapping) or each.get("type") in ours}
    if mode not in (None, "auto", "required"):
        raise InputError("tool_choice.mode", "the mode of allowed_tools must be 'auto' or 'required'")
    return _must(allowed) if mode == "required" else "auto", allowed


def _find(wanted: object, named: Mapping[str, _Offer]) -> str:
    """The alias of the tool that a choice names, in the flat or the nested form."""
    flat: Mapping[str, object] = wanted if isinstance(wanted, Mapping) else {}
    inner = flat.get(str(flat.get("type")))
    given = inner if isinstance(inner, Mapping) else flat
    for alias, offer in named.items():
        if offer.tool.name == given.get("name") and given.get("namespace") in (None, offer.tool.namespace):
            return alias
    names = ", ".join(offer.tool.name for offer in named.values()) or "none"
    shown = msgspec.json.encode(wanted).decode()[:200]
    raise InputError("tool_choice", f"tool_choice {shown} fits no tool of this request (tools: {names})")
