"""A message's header, from its text: as the reference parser reads it, and what can be saved of one it refuses.

In: the text between <|start|> (or the role already given) and <|message|>. Out: role, name, channel, recipient, type.
It does not know tokens or streams.
"""

import re
from typing import NamedTuple, get_args

from ossia.harmony.messages import CHANNELS, Role

CHANNEL, CONSTRAIN = "<|channel|>", "<|constrain|>"
ROLES: tuple[str, ...] = get_args(Role)


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
    words = re.findall(r"[^ \t\n\f\r]+", text.strip().replace(CONSTRAIN, f" {CONSTRAIN}"))
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
    end = next((i for i, c in enumerate(after) if c.isspace() or c == "<"), len(after))
    if end == 0:
        raise HeaderError("a channel marker without a channel")
    return after[:end], before + after[end:]


def _take_role(words: list[str]) -> tuple[Role, str | None, list[str]]:
    """A known role stands for itself; another word with a recipient behind it is a tool's name."""
    if not words:
        raise HeaderError("no role in the header")
    first = words[0]
    if first in ROLES:
        return first, first if first == "tool" else None, words  # type: ignore[return-value]
    if len(words) > 1 or first.startswith("to="):
        return "tool", first, words[1:]
    raise HeaderError(f"unknown role {first!r}")


def salvage(text: str, role: Role | None) -> tuple[Header, str]:
    """What a refused header still says, and the words left over, which are the model's text and must not be lost."""
    role, text = _salvage_role(text, role)
    channel = recipient = content_type = None
    names = "|".join(CHANNELS)
    if found := re.search(rf"<\|channel\|>\s*({names})", text):
        channel, text = found[1], text[: found.start()] + " " + text[found.end() :]
    if found := re.search(r"(?<!\S)to=([\w.\-]+)", text):
        recipient, text = found[1], text[: found.start()] + " " + text[found.end() :]
    if found := re.search(r"<\|constrain\|>\s*([A-Za-z]+)", text):
        content_type, text = CONSTRAIN + found[1], text[: found.start()] + " " + text[found.end() :]
    left = re.sub(r"<\|(channel|constrain|message|start|end|call|return)\|>", " ", text)
    return Header(role, None, channel, recipient, content_type), left.strip()


def _salvage_role(text: str, role: Role | None) -> tuple[Role, str]:
    stripped = text.lstrip()
    for known in ROLES:
        if re.match(rf"{known}(?![\w:.])", stripped):
            return known, stripped.removeprefix(known)  # type: ignore[return-value]
    return role or "assistant", text
