"""Fits the results of tools into the context: long texts are cut in the middle, old ones are removed.

In: a result's text, or a conversation. Out: the same within a limit of tokens, with a note where something is missing.
Results are encoded as text, so control tokens in them are ordinary characters.
"""

import re
from collections.abc import Collection, Sequence
from dataclasses import replace

from ossia.harmony.messages import Message
from ossia.tokenizer.tokenizer import Tokenizer

PAGE = re.compile(r"\[(\d+)\]")  # the first line of a browser's page has its cursor
REMOVED = "[output removed]"
NOTE = re.compile(r"\[output removed\]|\[page removed; open cursor \d+ again\]")
HEAD_SHARE = 0.75  # of what is kept
CHARACTERS = 16  # per token: longer texts are cut before they are encoded


def bounded(tokenizer: Tokenizer, text: str, limit: int) -> str:
    """The text, or its beginning and end with a note in between. limit: tokens, the note not counted."""
    text = _without_surrogates(text)
    head, tail = int(limit * HEAD_SHARE), limit - int(limit * HEAD_SHARE)
    if len(text) > limit * CHARACTERS:
        first, last = text[: head * CHARACTERS], text[len(text) - tail * CHARACTERS :]
    else:
        first = last = text
    tokens = tokenizer.encode(first)
    if first is last and len(tokens) <= limit:
        return text
    ending = tokens if first is last else tokenizer.encode(last)
    first, last = tokenizer.decode(tokens[:head]).rstrip("\ufffd"), tokenizer.decode(ending[-tail:]).lstrip("\ufffd")
    missing = len(text) - len(first) - len(last)
    return f"{first}\n[... {missing} characters left out ...]\n{last}" if missing > 0 else text


def without_old_results(
    tokenizer: Tokenizer, messages: Sequence[Message], names: Collection[str], excess: int
) -> list[Message]:
    """The messages with the oldest results of these tools removed, until `excess` tokens are saved.

    The last message stays, because the model has not read it yet.
    """
    kept = list(messages)
    for at, message in enumerate(messages[:-1]):
        if excess <= 0:
            break
        if message.role != "tool" or message.name not in names or NOTE.fullmatch(message.text):
            continue
        note = _note(message)
        saved = len(tokenizer.encode(message.text)) - len(tokenizer.encode(note))
        if saved > 0:
            kept[at] = replace(message, content=(note,))
            excess -= saved
    return kept


def _note(message: Message) -> str:
    page = PAGE.match(message.text) if str(message.name).startswith("browser.") else None
    return f"[page removed; open cursor {page[1]} again]" if page else REMOVED


def _without_surrogates(text: str) -> str:
    """Half surrogates cannot be encoded; they become U+FFFD."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text
