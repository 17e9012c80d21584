"""Checks of a request's length before it is rendered or tokenized.

In: messages, texts or tokens. Out: nothing, or an ApiError (400) that names the field.
"""

from collections.abc import Sequence

from ossia.harmony.messages import Developer, Message, ToolSpec
from ossia.server.errors import too_long
from ossia.server.http.decoding.token_bound import Shares
from ossia.tokenizer.tokenizer import Tokenizer

LONG_TEXT = 64 << 10  # characters: shorter texts are tokenized quickly, so errors give their exact token count
MIN_MESSAGE_TOKENS = 4  # tokens: <|start|>, a role, <|message|>, <|end|>


class LengthLimits:
    """The limits of one model's context. context: tokens. longest_token: bytes of the vocabulary's longest token."""

    def __init__(self, tokenizer: Tokenizer, context: int) -> None:
        tokens = [data for data, _ in tokenizer.text_tokens()]
        self.context, self.longest_token, self.shares = context, max(map(len, tokens)), Shares(tokens)

    def check_length(self, prompt: Sequence[int], param: str) -> None:
        """Raises ApiError (400) for a prompt that leaves no room for an answer."""
        if len(prompt) + 1 > self.context:
            raise too_long(len(prompt), self.context, param)

    def least_tokens(self, messages: Sequence[Message]) -> int:
        """Tokens that these messages have at least, by their lengths alone."""
        return MIN_MESSAGE_TOKENS * len(messages) + sum(map(_length, messages)) // self.longest_token

    def check_messages(self, messages: Sequence[Message], param: str = "messages") -> None:
        """Refuse what cannot fit the context before it is tokenized. Raises ApiError 400."""
        if (least := self.least_tokens(messages)) > self.context:
            raise too_long(least, self.context, param, at_least=True)

    def check_text(self, characters: int, param: str, tokens: int = 0) -> None:
        """The same for a text of `characters` characters and at least `tokens` tokens beside it."""
        if (least := tokens + characters // self.longest_token) > self.context:
            raise too_long(least, self.context, param, at_least=True)

    def check_tokens(self, messages: Sequence[Message], param: str = "messages") -> None:
        """As `check_messages`, by each byte of long texts. For any thread but the event loop's."""
        texts = [part for message in messages for part in message.content if isinstance(part, str)]
        self.check_bytes(texts, param, MIN_MESSAGE_TOKENS * len(messages))

    def check_bytes(self, texts: Sequence[str], param: str, tokens: int = 0) -> None:
        """As `check_text`, by each byte of long texts. For any thread but the event loop's."""
        if sum(map(len, texts)) <= LONG_TEXT:
            return
        least = tokens + sum(map(self.shares.least_tokens, texts))
        if least > self.context:
            raise too_long(least, self.context, param, at_least=True)


def _length(message: Message) -> int:
    """Characters that a message is rendered from, at least."""
    length = 0
    for part in message.content:
        match part:
            case str():
                length += len(part)
            case Developer(instructions, spaces, formats):
                length += len(instructions or "") + sum(len(form.description or "") for form in formats)
                length += sum(map(_length_of_tool, (tool for space in spaces for tool in space.tools)))
            case _:
                pass
    return length


def _length_of_tool(tool: ToolSpec) -> int:
    """Of its name and description, and of "type NAME = () => any;" around them."""
    return len(tool.name) + len(tool.description or "") + 18
