"""What is said in a harmony conversation: roles, channels, contents, tools. Values only.

In and out: nothing but these types; the renderer turns them into tokens, the parser makes them from tokens.
It does not know tokens, models or how a tool is run.
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
    """A function a model may call; `parameters` is a JSON schema of an object, or None for no arguments.

    Where `strict` is false, what of the schema cannot be enforced is left out instead of being an error.
    """

    name: str
    description: str
    parameters: JsonObject | None = None
    strict: bool = True


@dataclass(frozen=True, slots=True)
class ToolNamespace:
    """Tools under one name: "functions" for a user's own, "browser" and "python" for the built-in ones.

    With no `tools`, the description alone stands in the prompt (the python tool is declared so). `key` is what it is filed
    under among others, which decides their order, where that is not the name.
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
    """A form for the final answer, declared in the developer message under "# Response Formats"."""

    name: str
    schema: JsonObject
    description: str | None = None


@dataclass(frozen=True, slots=True)
class TextGrammar:
    """A form for the final answer that is no JSON schema, enforced but not declared in the prompt.

    texts: the regular expression, the grammar (Lark or GBNF), or the choices.
    """

    kind: Literal["regex", "choice", "grammar"]
    texts: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class System:
    """The content of a system message. None leaves a line out; dates are ISO (YYYY-MM-DD, cutoff YYYY-MM)."""

    identity: str | None = DEFAULT_IDENTITY
    effort: Effort | None = "medium"
    knowledge_cutoff: str | None = DEFAULT_CUTOFF
    current_date: str | None = None
    channels: tuple[str, ...] = CHANNELS
    channel_required: bool = True
    tools: tuple[ToolNamespace, ...] = ()


@dataclass(frozen=True, slots=True)
class Developer:
    """The content of a developer message: instructions, tools, forms for the answer."""

    instructions: str | None = None
    tools: tuple[ToolNamespace, ...] = ()
    response_formats: tuple[ResponseFormat, ...] = ()


AnswerForm: TypeAlias = JsonObject | TextGrammar
Content: TypeAlias = str | System | Developer


@dataclass(frozen=True, slots=True)
class Message:
    """One message. `name` is the author's (a tool's is its recipient name, "functions.get_weather").

    `tokens` are the ids a model sampled it as, from after the role to the stop token: the renderer replays them
    verbatim. `flaws` says what was wrong with its form when it was parsed; a well-formed message has none.
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
        """The plain text of the message, its parts joined."""
        return "".join(part for part in self.content if isinstance(part, str))


def system(content: System | str | None = None) -> Message:
    """A system message; by default the model's own."""
    return Message("system", (System() if content is None else content,))


def developer(content: Developer | str) -> Message:
    """A developer message; a bare string is its instructions."""
    return Message("developer", (Developer(content) if isinstance(content, str) else content,))


def user(text: str) -> Message:
    """What the user says."""
    return Message("user", (text,))


def assistant(
    text: str, channel: str = "final", recipient: str | None = None, content_type: str | None = None
) -> Message:
    """What the model says: its analysis, a call (with a recipient), or its final answer."""
    return Message("assistant", (text,), channel=channel, recipient=recipient, content_type=content_type)


def tool(name: str, text: str, channel: str | None = "commentary") -> Message:
    """What a tool answers, addressed to the assistant."""
    return Message("tool", (text,), name=name, channel=channel, recipient="assistant")
