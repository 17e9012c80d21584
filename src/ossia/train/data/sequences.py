"""Conversations as training sequences: the tokens of a context, and the target of each.

Input: messages, rendered with a tokenizer. Output: `Sequence`s of tokens and targets.

A conversation is one sequence while each prompt extends the previous one. Where the format drops earlier thinking from a
prompt, a new sequence begins. So training shows a model only contexts that it also gets in inference.
"""

from collections.abc import Collection, Iterator
from collections.abc import Sequence as Several
from typing import NamedTuple

from ossia.harmony.history import drop_old_analysis
from ossia.harmony.messages import Message
from ossia.harmony.render import declares_functions, render, render_message
from ossia.task import TrainingText
from ossia.tokenizer.tokenizer import Tokenizer

NONE = -1  # no target: the next token is part of the prompt, or masked


class Conversation(NamedTuple):
    """Messages, and the indices of the assistant messages without targets."""

    messages: Several[Message]
    masked: Collection[int] = ()


class Sequence(NamedTuple):
    """Tokens of one context from its start, and for each its target or NONE.

    After a final answer the target is <|return|>, which ends a completion. The next token is <|end|>, as in a history.
    """

    tokens: list[int]
    targets: list[int]


class SampledTurn(NamedTuple):
    """One completion: its prompt, and the sampled tokens up to the stop token."""

    prompt: list[int]
    output: list[int]
    is_target: list[bool]


def sequences(tokenizer: Tokenizer, conversation: Conversation) -> list[Sequence]:
    """The fewest sequences that have each completion after its own prompt; those without a target are omitted."""
    return [each for each in joined(tokenizer, samplings(tokenizer, conversation)) if max(each.targets) != NONE]


def samplings(tokenizer: Tokenizer, conversation: Conversation) -> Iterator[SampledTurn]:
    """Each run of assistant messages up to a tool call, a final answer or another role, with its prompt."""
    messages = conversation.messages
    begin = 0
    while begin < len(messages):
        if messages[begin].role != "assistant":
            begin += 1
            continue
        end = _end(messages, begin)
        output, is_target = _output(tokenizer, conversation, begin, end)
        before = drop_old_analysis(messages[:begin])
        yield SampledTurn(render(tokenizer, before, next_role="assistant"), output, is_target)
        begin = end


def _end(messages: Several[Message], begin: int) -> int:
    for i in range(begin, len(messages)):
        if messages[i].role != "assistant":
            return i
        if messages[i].recipient is not None or messages[i].channel == "final":
            return i + 1
    return len(messages)


def _output(tokenizer: Tokenizer, conversation: Conversation, begin: int, end: int) -> tuple[list[int], list[bool]]:
    """The sampled tokens: all after the prompt's <|start|>assistant, with the headers of further messages."""
    messages, tokens, flags = conversation.messages, list[int](), list[bool]()
    functions = declares_functions(messages)
    for i in range(begin, end):
        message = render_message(tokenizer, messages[i], functions).tokens
        tokens += message
        flags += [i not in conversation.masked] * len(message)
    if messages[end - 1].channel == "final" and messages[end - 1].recipient is None:
        tokens[-1] = tokenizer.special["<|return|>"]
    opening = 1 + len(tokenizer.encode("assistant"))
    return tokens[opening:], flags[opening:]


def joined(tokenizer: Tokenizer, turns: Iterator[SampledTurn]) -> Iterator[Sequence]:
    """Sequences of completions. One whose prompt extends the previous sequence is appended to it."""
    now: Sequence | None = None
    for each in turns:
        if now is None or each.prompt[: len(now.tokens)] != now.tokens:
            if now:
                yield now
            now = Sequence([], [])
        given = each.prompt[len(now.tokens) :]
        tokens, targets = now
        tokens += given
        targets += [NONE] * len(given)
        targets[-1:] = [token if wanted else NONE for token, wanted in zip(each.output, each.is_target)]
        targets.append(NONE)
        tokens += _as_history(tokenizer, each.output)
    if now:
        yield now


def _as_history(tokenizer: Tokenizer, output: list[int]) -> list[int]:
    """A completion as later prompts show it: with <|end|> in place of <|return|>."""
    ended = output[-1] == tokenizer.special["<|return|>"]
    return [*output[:-1], tokenizer.special["<|end|>"]] if ended else output


def of_text(tokenizer: Tokenizer, text: str, max_seq_len: int) -> list[Sequence]:
    """Plain text and <|endoftext|>, every token a target, in pieces of at most `max_seq_len` tokens."""
    special = tokenizer.special
    tokens = [special["<|startoftext|>"], *tokenizer.encode(text), special["<|endoftext|>"]]
    pieces = (tokens[i : i + max_seq_len + 1] for i in range(0, len(tokens) - 1, max_seq_len))
    return [Sequence(piece[:-1], piece[1:]) for piece in pieces]


def of_pieces(tokenizer: Tokenizer, text: TrainingText) -> list[Sequence]:
    """As `of_text`, in one sequence. Targets are <|endoftext|> and the tokens of the pieces marked so."""
    tokens, flags = [tokenizer.special["<|startoftext|>"]], [False]
    for piece, is_target in text.pieces:
        encoded = tokenizer.encode(piece)
        tokens += encoded
        flags += [is_target] * len(encoded)
    following = [*tokens[1:], tokenizer.special["<|endoftext|>"]]
    return [Sequence(tokens, [token if flag else NONE for token, flag in zip(following, [*flags[1:], True])])]


def all_targets(sequence: Sequence) -> Sequence:
    """Make every next token a target, those of prompts too: for pre-training on conversations."""
    following = [*sequence.tokens[1:], NONE]
    return Sequence(
        sequence.tokens, [target if target != NONE else next_ for target, next_ in zip(sequence.targets, following)]
    )
