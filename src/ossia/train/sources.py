"""Where sequences come from: generators, JSONL of chat messages, harmony text, plain text; each by number.

In: a recipe's sources, a tokenizer and a seed. Out: sources whose item `i` is the same on any machine, and a `Stream`.
It does not know batches or networks. Files are read and encoded once, when the run begins.
"""

import random
from collections.abc import Callable, Iterator
from collections.abc import Sequence as Several
from pathlib import Path
from typing import Any, Protocol, get_args

import msgspec

from ossia.harmony.messages import Effort
from ossia.harmony.parse import End, Parser
from ossia.task import named, tasks_of
from ossia.tokenizer import Tokenizer
from ossia.train.chat_jsonl import read_line
from ossia.train.graded import expert
from ossia.train.recipe import Source
from ossia.train.sequences import Conversation, Sequence, Taught, all_targets, of_pieces, of_text, sequences

MOST_BAD_SHOWN = 5
EFFORTS: tuple[Effort, ...] = get_args(Effort)


class DataError(ValueError):
    """Data that cannot be trained on; the message names the file and the line."""


class Numbered(Protocol):
    """Sequences by the number of their conversation; `left_out` counts what was bad or too long so far."""

    left_out: int

    def at(self, index: int) -> list[Sequence]: ...


class Generated:
    """Conversations or texts made by a function, each from a random source of its own number."""

    def __init__(self, make: Callable[[random.Random], Any], seed: str, encode: "Encode") -> None:
        self._make, self._seed, self._encode = make, seed, encode
        self.left_out = 0

    def at(self, index: int) -> list[Sequence]:
        made = self._encode(self._make(random.Random(f"{self._seed}/{index}")))
        kept = [each for each in made if len(each.tokens) <= self._encode.longest]
        self.left_out += len(made) - len(kept)
        return kept


class Filed:
    """A file's conversations, in another order every time they are gone through."""

    def __init__(self, items: Several[list[Sequence]], seed: str, left_out: int) -> None:
        self._items, self._seed, self.left_out = items, seed, left_out
        self._order: tuple[int, list[int]] = (-1, [])

    def at(self, index: int) -> list[Sequence]:
        epoch, place = divmod(index, len(self._items))
        if self._order[0] != epoch:
            order = list(range(len(self._items)))
            random.Random(f"{self._seed}/{epoch}").shuffle(order)
            self._order = (epoch, order)
        return self._items[self._order[1][place]]


class Encode:
    """Whatever a source gives, as sequences: of a conversation, of bare messages, of a text, of one learnt in parts."""

    def __init__(self, tokenizer: Tokenizer, longest: int, everything: bool) -> None:
        self.tokenizer, self.longest, self._everything = tokenizer, longest, everything

    def __call__(self, made: Any) -> list[Sequence]:
        if isinstance(made, str):
            return of_text(self.tokenizer, made, self.longest)
        if isinstance(made, Taught):
            return of_pieces(self.tokenizer, made)
        conversation = made if isinstance(made, Conversation) else Conversation(made)
        found = sequences(self.tokenizer, conversation)
        return [all_targets(each) for each in found] if self._everything else found


class Stream:
    """Sequences from several sources by weight. `position` is all that is needed to go on from here."""

    def __init__(self, sources: Several[tuple[Numbered, float]], seed: str) -> None:
        self._sources, self._seed = [source for source, _ in sources], seed
        self._weights = [weight for _, weight in sources]
        self.position = [0] * len(sources)

    def take(self) -> list[Sequence]:
        rng = random.Random(f"{self._seed}/{sum(self.position)}")
        chosen = rng.choices(range(len(self._sources)), self._weights)[0]
        found = self._sources[chosen].at(self.position[chosen])
        self.position[chosen] += 1
        return found

    @property
    def left_out(self) -> int:
        return sum(source.left_out for source in self._sources)


def open_stream(
    given: Several[Source],
    tokenizer: Tokenizer,
    *,
    seed: int,
    longest: int,
    everything: bool,
    skip_bad: bool,
    near: Path,
) -> Stream:
    """everything: all tokens are targets. near: the folder that relative paths start from. DataError for bad data."""
    encode = Encode(tokenizer, longest, everything)
    opened: list[tuple[Numbered, float]] = []
    for number, source in enumerate(given):
        own = f"{seed}/{number}"
        make = maker(source)
        found = Generated(make, own, encode) if make else _filed(source, near, own, encode, skip_bad)
        opened.append((found, source.weight))
    return Stream(opened, str(seed))


def maker(source: Source) -> Callable[[random.Random], Any] | None:
    """What makes a conversation or a text of a random source; None for a file."""
    if source.tasks is not None:
        return expert(tasks_of(source.tasks), EFFORTS)
    return None if source.generator is None else named(source.generator)


def _filed(source: Source, near: Path, seed: str, encode: Encode, skip_bad: bool) -> Filed:
    name = source.jsonl or source.harmony or source.text or ""
    path = near / name
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read: {error}") from error
    items, bad = list[list[Sequence]](), list[str]()
    for line, make in _items(source, text, encode):
        try:
            items.append(_whole(make(), encode.longest))
        except (ValueError, RecursionError) as error:
            bad.append(f"{path}, line {line}: {error}")
            if not skip_bad:
                raise DataError(f"{bad[0]} (--skip-bad leaves such lines out)") from error
    if not items:
        raise DataError(f"{path}: nothing to train on" + "".join(f"\n  {each}" for each in bad[:MOST_BAD_SHOWN]))
    return Filed(items, seed, len(bad))


def _whole(found: list[Sequence], longest: int) -> list[Sequence]:
    if not found:
        raise ValueError("no assistant message to learn from")
    if (most := max(len(each.tokens) for each in found)) > longest:
        raise ValueError(f"{most} tokens are more than longest = {longest}")
    return found


def _items(source: Source, text: str, encode: Encode) -> Iterator[tuple[int, Callable[[], list[Sequence]]]]:
    """Each item's first line and what makes it, which raises ValueError when it is bad."""
    if source.harmony is not None:
        line = 1
        for part in text.split("<|endoftext|>"):
            if part.strip():
                blank = len(part) - len(part.lstrip())
                yield (
                    line + part[:blank].count("\n"),
                    lambda part=part: encode(from_harmony(encode.tokenizer, part.strip())),
                )
            line += part.count("\n")
    elif source.text is not None and not source.text.endswith(".jsonl"):
        yield 1, lambda: encode(text)
    else:
        of_line = read_line if source.jsonl is not None else _text_of
        for number, each in enumerate(text.split("\n"), 1):
            if each.strip():
                yield number, lambda number=number, each=each: encode(of_line(each, number))


class _TextLine(msgspec.Struct, frozen=True):
    text: str


def _text_of(line: str, number: int) -> str:
    return msgspec.json.decode(line, type=_TextLine).text


def from_harmony(tokenizer: Tokenizer, text: str) -> Conversation:
    """A whole conversation from its harmony text. ValueError when it is malformed."""
    parser = Parser(tokenizer, role=None)
    events = [event for token in tokenizer.encode_with_special(text) for event in parser.feed(token)] + parser.finish()
    if parser.flaws:
        raise ValueError(f"malformed harmony: {parser.flaws[0]}")
    return Conversation([event.message for event in events if isinstance(event, End)])
