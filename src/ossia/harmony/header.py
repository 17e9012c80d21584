"""Parses a message header, as the reference parser does, and recovers what it can from a header that the reference
refuses.

In: the text between <|start|> (or the given role) and <|message|>. Out: role, name, channel, recipient, content type.
"""

import re
from collections.abc import Collection
from typing import NamedTuple

from ossia.harmony.calls import DOTTED
from ossia.harmony.messages import CHANNELS, ROLES, Role

CHANNEL, CONSTRAIN = "<|channel|>", "<|constrain|>"
# Unicode's White_Space. Python's includes U+001C to U+001F too.
SPACE = " \t\n\v\f\r\x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"
CHANNEL_NAME = re.compile(f"[^<{SPACE}]*")
TRIMMED = re.compile(f"^[{SPACE}]+|[{SPACE}]+$")
WORD = re.compile(r"[^ \t\n\f\r]+")

# Parts of a refused header. Words are matched whole, except joined ones such as "finalFour" and "commentaryto=f".
SAVED_ROLE = re.compile(rf"^\s*({'|'.join(ROLES)})(?![\w:.])")
SAVED_CHANNEL = re.compile(r"<\|channel\|>\s*(analysis|commentary|final)(?=to=|[^a-z]|$)")
SAVED_RECIPIENT = re.compile(r"(?<!\S)to=([\w.\-]+)")
SAVED_TYPE = re.compile(r"<\|constrain\|>\s*([A-Za-z]++)(?!\w)")
MARKERS = re.compile(r"<\|(channel|constrain|message|start|end|call|return)\|>")


class Header(NamedTuple):
    """The fields before a message's text. For a tool, its name takes the place of the role."""

    role: Role
    name: str | None = None
    channel: str | None = None
    recipient: str | None = None
    content_type: str | None = None


class HeaderError(ValueError):
    """The reference parser would refuse this header, for the given reason."""


def read_header(text: str, role: Role | None) -> Header:
    """Read a header like the reference, including its oddity that a single bare word is a recipient.

    Raises HeaderError where the reference raises: an empty channel, an unknown role, unexpected words.
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
    """The role. A known role is itself; another word, if followed by a recipient, is a tool's name."""
    if not words:
        raise HeaderError("no role in the header")
    first = words[0]
    if role := ROLES.get(first):
        return role, first if role == "tool" else None, words
    if len(words) > 1 or first.startswith("to="):
        return "tool", first, words[1:]
    raise HeaderError(f"unknown role {first!r}")


def doubled_channel(text: str, role: Role | None, declared: Collection[str]) -> Header | None:
    """The call that a header with a second <|channel|> means; None if it means none.

    gpt-oss writes such headers in about 8 % of its calls of built-in tools, for example
    `<|channel|>container.exec<|channel|>analysis code`. The first word before the last <|channel|> that is a declared
    recipient, or at least a dotted name, is the recipient. The last channel is the channel. Without declared
    recipients only calls on the analysis channel are recovered, the form that the model is known to write.
    """
    before, _, after = text.rpartition(CHANNEL)
    if CHANNEL not in before or MARKERS.search(before.replace(CHANNEL, " ").replace(CONSTRAIN, " ")):
        return None
    name = CHANNEL_NAME.match(after)
    kind = WORD.findall(after[name.end() :] if name else "")
    words = [word.removeprefix("to=") for word in WORD.findall(MARKERS.sub(" ", before))]
    role = role or ROLES.get(words[0] if words else "")
    if name is None or name[0] not in CHANNELS or role is None or len(kind) > 1 or "to=" in after:
        return None
    if not declared and name[0] != "analysis":
        return None
    recipient = next((word for word in words if word in declared), None)
    recipient = recipient or next((word for word in words if DOTTED.fullmatch(word)), None)
    return None if recipient is None else Header(role, None, name[0], recipient, kind[0] if kind else None)


def salvage(text: str, role: Role | None) -> tuple[Header, str]:
    """The fields of a refused header, and the remaining words, which are the model's text and must not be lost."""
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
    """The first group of the first match, and the text without the match."""
    found = pattern.search(text)
    return (found[1], f"{text[: found.start()]} {text[found.end() :]}") if found else (None, text)
