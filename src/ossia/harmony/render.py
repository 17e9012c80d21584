"""Renders messages to token ids: for a completion, for a history, and for training with a loss mask.

In: a tokenizer and messages. Out: ids. Text is encoded with special tokens off, so only this module writes control
tokens.

The format is OpenAI's harmony (github.com/openai/harmony): <|start|>role to=recipient<|channel|>channel
type<|message|>text<|end|>
"""

from collections.abc import Sequence
from typing import NamedTuple

from ossia.harmony.messages import Developer, Message, ResponseFormat, Role, System, ToolNamespace
from ossia.harmony.schema import compact_json, split_lines, tools_section
from ossia.harmony.simplify import simplified
from ossia.tokenizer.tokenizer import Tokenizer

CONSTRAIN = "<|constrain|>"


class Rendered(NamedTuple):
    """Ids, and for each whether the assistant samples it, so that it is trained on."""

    tokens: list[int]
    sampled: list[bool]


def render(
    tokenizer: Tokenizer,
    messages: Sequence[Message],
    next_role: Role | None = None,
    drop_analysis: bool = True,
    simplify: bool = True,
) -> list[int]:
    """A conversation's ids. next_role: end with the opening of this role's next message.

    drop_analysis: drop analysis before the first final answer, if the assistant's last message is final. simplify:
    rewrite tool schemas that the format's renderer would show as `any` (see `simplify.py`).
    """
    tokens = [token for part in _parts(tokenizer, messages, drop_analysis, simplify) for token in part.tokens]
    if next_role is not None:
        tokens += [tokenizer.special["<|start|>"], *tokenizer.encode(next_role)]
    return tokens


def render_training(
    tokenizer: Tokenizer, messages: Sequence[Message], drop_analysis: bool = True, simplify: bool = True
) -> Rendered:
    """Like `render`, but a final answer at the end ends in <|return|>, which the model must learn."""
    parts = _parts(tokenizer, messages, drop_analysis, simplify)
    tokens = [token for part in parts for token in part.tokens]
    sampled = [flag for part in parts for flag in part.sampled]
    if messages and messages[-1].role == "assistant" and messages[-1].channel == "final":
        tokens[-1] = tokenizer.special["<|return|>"]
    return Rendered(tokens, sampled)


def _parts(tokenizer: Tokenizer, messages: Sequence[Message], drop_analysis: bool, simplify: bool) -> list[Rendered]:
    kept = drop_leading_analysis(messages) if drop_analysis else messages
    functions = declares_functions(messages)
    return [render_message(tokenizer, message, functions, simplify) for message in kept]


def drop_leading_analysis(messages: Sequence[Message]) -> list[Message]:
    """The renderer's rule for histories: analysis that led to an answer is dropped."""
    replies = [message for message in messages if message.role == "assistant"]
    if not replies or replies[-1].channel != "final":
        return list(messages)
    first = next(i for i, message in enumerate(messages) if message.channel == "final")
    return [message for i, message in enumerate(messages) if i >= first or message.channel != "analysis"]


def declares_functions(messages: Sequence[Message]) -> bool:
    """Whether a developer message declares functions. Then the system message names the channel for calls."""
    contents = [part for message in messages for part in message.content]
    spaces = [space for part in contents if isinstance(part, Developer) for space in part.tools]
    return any(space.filed_under == "functions" and space.tools for space in spaces)


def render_message(
    tokenizer: Tokenizer, message: Message, functions_declared: bool = False, simplify: bool = True
) -> Rendered:
    """One message from <|start|> to its end. A sampled message keeps its sampled ids."""
    _check(message)
    opening = [tokenizer.special["<|start|>"], *tokenizer.encode(_author(message))]
    if message.tokens is not None:
        body = _closed(tokenizer, message)
    else:
        body = (
            _header(tokenizer, message)
            + _content(tokenizer, message, functions_declared, simplify)
            + [_end(tokenizer, message)]
        )
    is_sampled = message.role == "assistant"
    return Rendered(opening + body, [False] * len(opening) + [is_sampled] * len(body))


def _check(message: Message) -> None:
    if message.role == "tool" and message.name is None:
        raise ValueError("a tool message needs the tool's name, such as 'functions.get_weather'")
    for kind, role in ((System, "system"), (Developer, "developer")):
        if message.role != role and any(isinstance(part, kind) for part in message.content):
            raise ValueError(f"{kind.__name__} content stands in a {role} message only, not in one of {message.role}")


def _author(message: Message) -> str:
    if message.role == "tool":
        return str(message.name)
    return f"{message.role}:{message.name}" if message.name is not None else message.role


def _closed(tokenizer: Tokenizer, message: Message) -> list[int]:
    """Sampled ids. <|return|> ends a completion only; in a history the message ends in <|end|>."""
    tokens = list(message.tokens or ())
    ends = {tokenizer.special[name] for name in ("<|end|>", "<|call|>")}
    if tokens and tokens[-1] == tokenizer.special["<|return|>"]:
        tokens[-1] = tokenizer.special["<|end|>"]
    elif not tokens or tokens[-1] not in ends:
        tokens.append(_end(tokenizer, message))
    return tokens


def _header(tokenizer: Tokenizer, message: Message) -> list[int]:
    """Recipient, channel and content type. <|constrain|> at the start of a type becomes the control token."""
    encode, special = tokenizer.encode, tokenizer.special
    tokens: list[int] = []
    if message.recipient is not None and message.recipient != "all":
        tokens += encode(f" to={message.recipient}")
    if message.channel is not None:
        tokens += [special["<|channel|>"], *encode(message.channel)]
    if message.content_type is not None:
        if message.content_type.startswith(CONSTRAIN):
            tokens += [*encode(" "), special[CONSTRAIN], *encode(message.content_type.removeprefix(CONSTRAIN))]
        else:
            tokens += encode(f" {message.content_type}")
    return [*tokens, special["<|message|>"]]


def _end(tokenizer: Tokenizer, message: Message) -> int:
    calls = message.role == "assistant" and message.recipient is not None
    return tokenizer.special["<|call|>" if calls else "<|end|>"]


def _content(tokenizer: Tokenizer, message: Message, functions_declared: bool, simplify: bool) -> list[int]:
    tokens: list[int] = []
    for part in message.content:
        match part:
            case System():
                tokens += tokenizer.encode(system_text(part, functions_declared, simplify))
            case Developer():
                tokens += tokenizer.encode(developer_text(part, simplify))
            case str():
                tokens += tokenizer.encode(part)
    return tokens


def system_text(content: System, functions_declared: bool = False, simplify: bool = True) -> str:
    """The text of a system message. Sections without content are omitted."""
    top = [
        content.identity,
        None if content.knowledge_cutoff is None else f"Knowledge cutoff: {content.knowledge_cutoff}",
        None if content.current_date is None else f"Current date: {content.current_date}",
    ]
    sections = ["\n".join(lines)] if (lines := [line for line in top if line is not None]) else []
    if content.effort is not None:
        sections.append(f"Reasoning: {content.effort}")
    if content.tools:
        sections.append(_tools(content.tools, simplify))
    if content.channels:
        line = f"# Valid channels: {', '.join(content.channels)}."
        if content.channel_required:
            line += " Channel must be included for every message."
        if functions_declared:
            line += "\nCalls to these tools must go to the commentary channel: 'functions'."
        sections.append(line)
    return "\n\n".join(sections)


def _tools(spaces: tuple[ToolNamespace, ...], simplify: bool) -> str:
    return tools_section(spaces, simplified) if simplify else tools_section(spaces)


def developer_text(content: Developer, simplify: bool = True) -> str:
    sections = [] if content.instructions is None else ["# Instructions", content.instructions]
    if content.tools:
        sections.append(_tools(content.tools, simplify))
    if content.response_formats:
        sections += ["# Response Formats", *(_format_text(each) for each in content.response_formats)]
    return "\n\n".join(sections)


def _format_text(form: ResponseFormat) -> str:
    """A form of the final answer, as in the harmony guide."""
    lines = [f"// {line}" for line in split_lines(form.description or "")]
    return "\n".join([f"## {form.name}\n", *lines, compact_json(form.schema)])
