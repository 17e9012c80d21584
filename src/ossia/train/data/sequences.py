"""Conversations to sequences that teach: what the model would have before it, and what it must say next.

In: messages, rendered with a tokenizer. Out: `Sequence`s: tokens, and beside each row the token that must follow it.
It does not know where conversations come from, batches or networks.

A conversation becomes one sequence as long as each prompt goes on from the one before. Where the format drops earlier
thinking from a prompt, a new sequence begins, so a model never sees in training what it would not see when it is asked.
"""

from collections.abc import Collection, Iterator
from collections.abc import Sequence as Several
from typing import NamedTuple

from ossia.harmony.history import drop_old_analysis
from ossia.harmony.messages import Message
from ossia.harmony.render import declares_functions, render, render_message
from ossia.task import TrainingText
from ossia.tokenizer.tokenizer import Tokenizer

NONE = -1  # no target: this row's next token is given, not said


class Conversation(NamedTuple):
    """Messages, and the numbers of those assistant messages that are not to be learnt."""

    messages: Several[Message]
    unlearnt: Collection[int] = ()


class Sequence(NamedTuple):
    """Tokens of one context from its start, and for each row its target or NONE.

    After a final answer the target is <|return|>, which ends a sampling; the next token there is <|end|>, as in a history.
    """

    tokens: list[int]
    targets: list[int]


class SampledTurn(NamedTuple):
    """One sampling: the prompt it began from, and what the model said, up to the token that stopped it."""

    prompt: list[int]
    output: list[int]
    is_target: list[bool]


def sequences(tokenizer: Tokenizer, conversation: Conversation) -> list[Sequence]:
    """As few as hold every sampling behind its own prompt; those without a target are left out."""
    return [each for each in joined(tokenizer, samplings(tokenizer, conversation)) if max(each.targets) != NONE]


def samplings(tokenizer: Tokenizer, conversation: Conversation) -> Iterator[SampledTurn]:
    """Each run of assistant messages up to a call, a final answer or another's word, with its prompt."""
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
    """What is sampled: all after the prompt's <|start|>assistant, the openings of further messages among it."""
    messages, tokens, flags = conversation.messages, list[int](), list[bool]()
    functions = declares_functions(messages)
    for i in range(begin, end):
        message = render_message(tokenizer, messages[i], functions).tokens
        tokens += message
        flags += [i not in conversation.unlearnt] * len(message)
    if messages[end - 1].channel == "final" and messages[end - 1].recipient is None:
        tokens[-1] = tokenizer.special["<|return|>"]
    opening = 1 + len(tokenizer.encode("assistant"))
    return tokens[opening:], flags[opening:]


def joined(tokenizer: Tokenizer, said: Iterator[SampledTurn]) -> Iterator[Sequence]:
    """Samplings whose prompt goes on from the sequence before become part of it."""
    now: Sequence | None = None
    for each in said:
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
    """<|return|> ends a sampling; from then on the message is shown with <|end|>."""
    ended = output[-1] == tokenizer.special["<|return|>"]
    return [*output[:-1], tokenizer.special["<|end|>"]] if ended else output


def of_text(tokenizer: Tokenizer, text: str, max_seq_len: int) -> list[Sequence]:
    """Plain text, every token a target, <|endoftext|> behind it; cut into pieces of at most `max_seq_len` rows."""
    special = tokenizer.special
    tokens = [special["<|startoftext|>"], *tokenizer.encode(text), special["<|endoftext|>"]]
    pieces = (tokens[i : i + max_seq_len + 1] for i in range(0, len(tokens) - 1, max_seq_len))
    return [Sequence(piece[:-1], piece[1:]) for piece in pieces]


def of_pieces(tokenizer: Tokenizer, taught: TrainingText) -> list[Sequence]:
    """As `of_text`, in one sequence, with targets only where a piece is to be learnt, and at the end."""
    tokens, learnt = [tokenizer.special["<|startoftext|>"]], [False]
    for text, wanted in taught.pieces:
        encoded = tokenizer.encode(text)
        tokens += encoded
        learnt += [wanted] * len(encoded)
    following = [*tokens[1:], tokenizer.special["<|endoftext|>"]]
    return [Sequence(tokens, [token if wanted else NONE for token, wanted in zip(following, [*learnt[1:], True])])]


def all_targets(sequence: Sequence) -> Sequence:
    """Every next token is a target, the prompt's too: for pre-training on conversations."""
    following = [*sequence.tokens[1:], NONE]
    return Sequence(
        sequence.tokens, [told if told != NONE else next_ for told, next_ in zip(sequence.targets, following)]
    )
