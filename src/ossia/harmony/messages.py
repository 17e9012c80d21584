"""The values of a harmony conversation: roles, channels, contents, tools.

In and out: these types only. The renderer turns them into tokens, and the parser makes them from tokens.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

Role = Literal["system", "developer", "user", "assistant", "tool"]
Channel = Literal["analysis", "commentary", "final"]
Effort = Literal["low", "medium", "high"]
JsonObject: TypeAlias = Mapping[str, object]

DEFAULT_IDENTITY = "You are ChatGPT, a large language model trained by OpenAI."
DEFAULT_CUTOFF = "2024-06"
CHANNELS: tuple[Channel, ...] = ("analysis", "commentary", "final")
ROLES: dict[str, Role] = {role: role for role in get_args(Role)}


@dataclass(frozen=True, slots=True)
class ToolSpec:
    """A function that a model may call. parameters: an object's JSON schema, or None for no arguments.

    strict: False: parts of the schema that cannot be enforced are left out instead of being an error.
    """

    name: str
    description: str
    parameters: JsonObject | None = None
    strict: bool = True


@dataclass(frozen=True, slots=True)
class ToolNamespace:
    """Tools under one name: "functions" for the user's tools, "browser" and "python" for the built-in ones.

    Without `tools`, only the description is in the prompt (the python tool is declared so). key: the sort key among
    namespaces, if not the name.
    """

    name: str
    description: str | None = None
    tools: tuple[ToolSpec, ...] = ()
    key: str | None = None

    @property
    def filed_under(self) -> str:
        return self.name if self.key is None else self.key


@dataclass(frozen=True, slots=True)
class ResponseFormat:
    """A form of the final answer, declared in the developer message under "# Response Formats"."""

    name: str
    schema: JsonObject
    description: str | None = None


@dataclass(frozen=True, slots=True)
class TextGrammar:
    """A form of the final answer that is not a JSON schema. It is enforced, but not declared in the prompt.

    texts: the regular expression, the grammar (Lark or GBNF), or the choices.
    """

    kind: Literal["regex", "choice", "grammar"]
    texts: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class System:
    """The content of a system message. None omits a line. Dates are ISO (YYYY-MM-DD, cutoff YYYY-MM)."""

    identity: str | None = DEFAULT_IDENTITY
    effort: Effort | None = "medium"
    knowledge_cutoff: str | None = DEFAULT_CUTOFF
    current_date: str | None = None
    channels: tuple[str, ...] = CHANNELS
    channel_required: bool = True
    tools: tuple[ToolNamespace, ...] = ()


@dataclass(frozen=True, slots=True)
class Developer:
    """The content of a developer message: instructions, tools, forms of the answer."""

    instructions: str | None = None
    tools: tuple[ToolNamespace, ...] = ()
    response_formats: tuple[ResponseFormat, ...] = ()


AnswerForm: TypeAlias = JsonObject | TextGrammar
Content: TypeAlias = str | System | Developer


@dataclass(frozen=True, slots=True)
class Message:
    """One message. name: the author's name; for a tool its recipient name, "functions.get_weather".

    tokens: the ids that the model sampled, from after the role to the stop token. The renderer reuses them unchanged.
    flaws: what was malformed when it was parsed; empty for a well-formed message.
    """

    role: Role
    content: tuple[Content, ...]
    name: str | None = None
    channel: str | None = None
    recipient: str | None = None
    content_type: str | None = None
    tokens: tuple[int, ...] | None = None
    flaws: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """The plain text of the message, all parts joined."""
        return "".join(part for part in self.content if isinstance(part, str))


def system(content: System | str | None = None) -> Message:
    """A system message. Default content: the model's own."""
    return Message("system", (System() if content is None else content,))


def developer(content: Developer | str) -> Message:
    """A developer message. A plain string becomes its instructions."""
    return Message("developer", (Developer(content) if isinstance(content, str) else content,))


def user(text: str) -> Message:
    """A user message."""
    return Message("user", (text,))


def assistant(
    text: str, channel: str = "final", recipient: str | None = None, content_type: str | None = None
) -> Message:
    """An assistant message: analysis, a call (with a recipient), or a final answer."""
    return Message("assistant", (text,), channel=channel, recipient=recipient, content_type=content_type)


def tool(name: str, text: str, channel: str | None = "commentary") -> Message:
    """A tool's result, addressed to the assistant."""
    return Message("tool", (text,), name=name, channel=channel, recipient="assistant")
