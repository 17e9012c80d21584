"""The request that every API makes of the service: a conversation and the options of the answer.

Input: the parts of a conversation. Output: `AnswerRequest`s and harmony messages.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from ossia.chat import TurnOptions, Usage
from ossia.harmony import openai_chat
from ossia.harmony.messages import Effort, Message, ResponseFormat, System, ToolNamespace
from ossia.harmony.opening import OPENING, dated


@dataclass(frozen=True, slots=True)
class AnswerRequest:
    """A request for one answer.

    messages: the whole conversation, system and developer message first. options: with the model's stop tokens; its `tools`
    are empty if the client runs them. stop: strings that end the final answer. client: identifies the client in the queue.
    """

    messages: tuple[Message, ...]
    options: TurnOptions
    stop: tuple[str, ...] = ()
    client: str = ""


@dataclass(frozen=True, slots=True)
class AnswerStart:
    """An answer's first token was sampled; its events follow. usage: of the prompt alone."""

    usage: Usage


def conversation(
    effort: Effort | None,
    messages: Sequence[Message],
    tools: Sequence[ToolNamespace] = (),
    formats: Sequence[ResponseFormat] = (),
    opening: System = OPENING,
) -> tuple[Message, ...]:
    """`openai_chat.conversation`, its system message dated."""
    return openai_chat.conversation(effort, messages, tools, formats, opening=dated(opening))
