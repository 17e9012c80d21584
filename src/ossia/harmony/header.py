"""A message's header, from its text: as the reference parser reads it, and what can be saved of one it refuses.

In: the text between <|start|> (or the role already given) and <|message|>. Out: role, name, channel, recipient, type.
It does not know tokens or streams.
"""

import re
from typing import NamedTuple

from ossia.harmony.messages import ROLES, Role

CHANNEL, CONSTRAIN = "<|channel|>", "<|constrain|>"
# Unicode's White_Space, which is not Python's: U+001C to U+001F are none.
SPACE = " \t\n\v\f\r\x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"
CHANNEL_NAME = re.compile(f"[^<{SPACE}]*")
TRIMMED = re.compile(f"^[{SPACE}]+|[{SPACE}]+$")
WORD = re.compile(r"[^ \t\n\f\r]+")

# What a refused header may still say. No word is cut, but "finalFour" and "commentaryto=f" are seen for what they are.
SAVED_ROLE = re.compile(rf"^\s*({'|'.join(ROLES)})(?![\w:.])")
SAVED_CHANNEL = re.compile(r"<\|channel\|>\s*(analysis|commentary|final)(?=to=|[^a-z]|$)")
SAVED_RECIPIENT = re.compile(r"(?<!\S)to=([\w.\-]+)")
SAVED_TYPE = re.compile(r"<\|constrain\|>\s*([A-Za-z]++)(?!\w)")
MARKERS = re.compile(r"<\|(channel|constrain|message|start|end|call|return)\|>")


class Header(NamedTuple):
    """What stands before a message's text. A tool's name is where its role would be."""

    role: Role
    name: str | None = None
    channel: str | None = None
    recipient: str | None = None
    content_type: str | None = None


class HeaderError(ValueError):
    """The reference parser would refuse this header; the message says why."""


def read_header(text: str, role: Role | None) -> Header:
    """The header as the reference reads it, oddities included: a single bare word is a recipient.

    Raises HeaderError where the reference raises: an empty channel, an unknown role, words that fit nowhere.
    """
    channel, text = _take_channel(text)
    words = WORD.findall(TRIMMED.sub("", text).replace(CONSTRAIN, f" {CONSTRAIN}"))
    name = None
    if role is None:
        role, name, words = _take_role(words)
    if words and words[0] == role:
        words = words[1:]
    if not words:
        return Header(role, name, channel)
    *before, last = words
    if last.startswith("to="):
        recipient, content_type = last.removeprefix("to="), None
    elif not before and not last.startswith(CONSTRAIN):
        recipient, content_type = last, None
    else:
        recipient, content_type = None, last
        if before:
            recipient = before.pop().removeprefix("to=")
    if before:
        raise HeaderError(f"words that fit nowhere in the header: {' '.join(before)!r}")
    return Header(role, name, channel, recipient, content_type)


def _take_channel(text: str) -> tuple[str | None, str]:
    before, marker, after = text.partition(CHANNEL)
    if not marker:
        return None, text
    name = CHANNEL_NAME.match(after)
    if not name or not name[0]:
        raise HeaderError("a channel marker without a channel")
    return name[0], before + after[name.end() :]


def _take_role(words: list[str]) -> tuple[Role, str | None, list[str]]:
    """A known role stands for itself; another word with a recipient behind it is a tool's name."""
    if not words:
        raise HeaderError("no role in the header")
    first = words[0]
    if role := ROLES.get(first):
        return role, first if role == "tool" else None, words
    if len(words) > 1 or first.startswith("to="):
        return "tool", first, words[1:]
    raise HeaderError(f"unknown role {first!r}")


def salvage(text: str, role: Role | None) -> tuple[Header, str]:
    """What a refused header still says, and the words left over, which are the model's text and must not be lost."""
    named, text = _take(SAVED_ROLE, text)
    channel, text = _take(SAVED_CHANNEL, text)
    recipient, text = _take(SAVED_RECIPIENT, text)
    content_type, text = _take(SAVED_TYPE, text)
    header = Header(
        ROLES[named] if named else role or "assistant",
        channel=channel,
        recipient=recipient,
        content_type=content_type and CONSTRAIN + content_type,
    )
    return header, MARKERS.sub(" ", text).strip()


def _take(pattern: re.Pattern[str], text: str) -> tuple[str | None, str]:
    """The first group of the first match, and the text without that match."""
    found = pattern.search(text)
    return (found[1], f"{text[: found.start()]} {text[found.end() :]}") if found else (None, text)
