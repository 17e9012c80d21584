"""Sources of sequences: generators, rows of chat data, harmony text, plain text. Each item has a number.

Input: a recipe's sources, a tokenizer and a seed. Output: a `SequenceStream`; item `i` of a source is the same everywhere.
Files are checked completely when a run starts, then read item by item. Memory holds the offsets of the items.
"""

import random
from array import array
from collections import Counter
from collections.abc import Callable, Iterator
from collections.abc import Sequence as Several
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any, Protocol, get_args

import msgspec

from ossia.harmony.messages import Effort
from ossia.harmony.parse import End, Parser
from ossia.task import TrainingText, named, tasks_of
from ossia.tokenizer.tokenizer import Tokenizer
from ossia.train.data.chat_rows import read_line
from ossia.train.data.graded import expert
from ossia.train.data.row_files import DataError, Row, Rows, data_files, holds_rows, pieces
from ossia.train.data.sequences import Conversation, Sequence, all_targets, of_pieces, of_text, sequences
from ossia.train.recipe import DataSource

MOST_BAD_SHOWN, MOST_UNREAD_SHOWN = 5, 12
TRIED_AFTER_BAD = 100
LONGEST_TEXT = 1 << 30
END_OF_TEXT = b"<|endoftext|>"
EFFORTS: tuple[Effort, ...] = get_args(Effort)


class Numbered(Protocol):
    """Sequences by the number of their conversation. skipped: conversations that were bad or too long so far."""

    skipped: int

    def at(self, index: int) -> list[Sequence]: ...


class Generated:
    """Conversations or texts from a function, which gets a random.Random seeded by the item's number."""

    def __init__(self, make: Callable[[random.Random], Any], seed: str, encode: "Encode") -> None:
        self._make, self._seed, self._encode = make, seed, encode
        self.skipped = 0

    def at(self, index: int) -> list[Sequence]:
        made = self._encode(self._make(random.Random(f"{self._seed}/{index}")))
        kept = [each for each in made if len(each.tokens) <= self._encode.max_seq_len]
        self.skipped += len(made) - len(kept)
        return kept


class Filed:
    """Items of files, shuffled for each epoch. Takes 28 bytes of memory per item."""

    def __init__(self, files: Several["Items"], encode: "Encode", seed: str) -> None:
        self._files, self._encode, self._seed, self.skipped = files, encode, seed, 0
        self._file, self._start, self._number = array("I"), array("Q"), array("Q")
        self._epoch, self._order = -1, array("Q")

    def add(self, file: int, start: int, number: int) -> None:
        self._file.append(file)
        self._start.append(start)
        self._number.append(number)

    def __len__(self) -> int:
        return len(self._start)

    def at(self, index: int) -> list[Sequence]:
        epoch, place = divmod(index, len(self))
        if self._epoch != epoch:
            self._epoch, self._order = epoch, array("Q", range(len(self)))
            random.Random(f"{self._seed}/{epoch}").shuffle(self._order)  # type: ignore[arg-type]
        item = self._order[place]
        items = self._files[self._file[item]]
        return self._encode(items.read(items.at(self._start[item]), self._number[item]))


class Encode:
    """Converts a conversation, messages, a text or a `TrainingText` to sequences."""

    def __init__(self, tokenizer: Tokenizer, max_seq_len: int, everything: bool) -> None:
        self.tokenizer, self.max_seq_len, self._everything = tokenizer, max_seq_len, everything

    def __call__(self, made: Any) -> list[Sequence]:
        if isinstance(made, str):
            return of_text(self.tokenizer, made, self.max_seq_len)
        if isinstance(made, TrainingText):
            return of_pieces(self.tokenizer, made)
        conversation = made if isinstance(made, Conversation) else Conversation(made)
        found = sequences(self.tokenizer, conversation)
        return [all_targets(each) for each in found] if self._everything else found


class SequenceStream:
    """Sequences drawn from several sources by weight. position: items taken of each source; enough to resume."""

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
    def skipped(self) -> int:
        return sum(source.skipped for source in self._sources)


def open_stream(
    given: Several[DataSource],
    tokenizer: Tokenizer,
    *,
    seed: int,
    max_seq_len: int,
    everything: bool,
    skip_bad: bool,
    near: Path,
    say: Callable[[str], None] = print,
) -> SequenceStream:
    """A stream over a recipe's sources. Raises DataError for bad data.

    everything: all tokens are targets. near: base folder of relative paths. say: gets one line about each file with
    ignored columns.
    """
    encode = Encode(tokenizer, max_seq_len, everything)
    opened: list[tuple[Numbered, float]] = []
    for number, source in enumerate(given):
        own = f"{seed}/{number}"
        make = maker(source)
        found = Generated(make, own, encode) if make else _filed(source, near, own, encode, skip_bad, say)
        opened.append((found, source.weight))
    return SequenceStream(opened, str(seed))


def maker(source: DataSource) -> Callable[[random.Random], Any] | None:
    """The function that generates a conversation or a text; None for a file."""
    if source.tasks is not None:
        return expert(tasks_of(source.tasks), EFFORTS)
    return None if source.generator is None else named(source.generator)


def _filed(
    source: DataSource, near: Path, seed: str, encode: Encode, skip_bad: bool, say: Callable[[str], None]
) -> Filed:
    path = near / (source.jsonl or source.harmony or source.text or "")
    files = [_items(source, each, encode.tokenizer) for each in data_files(path, say)]
    filed, bad = Filed(files, encode, seed), list[str]()
    for number, items in enumerate(files):
        for row in items.scan():
            try:
                _check(encode(items.read(row.text, row.number)), encode.max_seq_len)
            except (ValueError, RecursionError) as error:
                bad.append(f"{items.path}, {items.unit} {row.number}: {error}")
                if not skip_bad:
                    good = len(filed) > 0 or _some_good(items, encode, row)
                    raise DataError(bad[0] + (" (--skip-bad skips such lines)" if good else "")) from error
                filed.skipped += 1
                del bad[MOST_BAD_SHOWN:]
            else:
                filed.add(number, row.start, row.number)
        if items.unread:
            shown = [f"{what} (in {count} rows)" for what, count in items.unread.most_common(MOST_UNREAD_SHOWN)]
            say(f"{items.path}: ignored: {', '.join(shown)}")
    if not len(filed):
        raise DataError(f"{path}: nothing to train on" + "".join(f"\n  {each}" for each in bad))
    return filed


def _some_good(items: "Items", encode: Encode, after: Row) -> bool:
    """Whether any of the next rows is good, so that --skip-bad helps."""
    for row in islice((row for row in items.scan() if row.number > after.number), TRIED_AFTER_BAD):
        with suppress(ValueError, RecursionError):
            _check(encode(items.read(row.text, row.number)), encode.max_seq_len)
            return True
    return False


def _check(found: list[Sequence], max_seq_len: int) -> None:
    if not found:
        raise ValueError("no assistant message to learn from")
    if (most := max(len(each.tokens) for each in found)) > max_seq_len:
        raise ValueError(f"has {most} tokens, more than max_seq_len = {max_seq_len}")


class Items(Protocol):
    """A file's items. unread: counts the columns and keys that are ignored."""

    path: Path
    unit: str
    unread: Counter[str]

    def scan(self) -> Iterator[Row]: ...
    def at(self, start: int) -> bytes: ...
    def read(self, text: bytes, number: int) -> Any: ...


class ChatItems(Rows):
    """Rows of conversations."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.unread = Counter[str]()

    def read(self, text: bytes, number: int) -> Conversation:
        return read_line(text, number, self.unread)


class TextItems(Rows):
    """Rows with a "text" column."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.unread = Counter[str]()

    def read(self, text: bytes, number: int) -> str:
        return msgspec.json.decode(text, type=_TextLine).text


class HarmonyItems:
    """Harmony texts with <|endoftext|> between them. An item's start is its byte offset in the file."""

    unit = "line"

    def __init__(self, path: Path, tokenizer: Tokenizer) -> None:
        self.path, self.unread, self._tokenizer = path, Counter[str](), tokenizer

    def scan(self) -> Iterator[Row]:
        start, line = 0, 1
        for text in pieces(self.path, END_OF_TEXT):
            if text.strip():
                blank = len(text) - len(text.lstrip())
                yield Row(line + text[:blank].count(b"\n"), start, text.strip())
            start += len(text) + len(END_OF_TEXT)
            line += text.count(b"\n")

    def at(self, start: int) -> bytes:
        return next(pieces(self.path, END_OF_TEXT, start), b"").strip()

    def read(self, text: bytes, number: int) -> Conversation:
        return from_harmony(self._tokenizer, text.decode("utf-8"))


class PlainText:
    """A file of plain text as one item."""

    unit = "line"

    def __init__(self, path: Path) -> None:
        self.path, self.unread = path, Counter[str]()

    def scan(self) -> Iterator[Row]:
        yield Row(1, 0, self.at(0))

    def at(self, start: int) -> bytes:
        if (size := self.path.stat().st_size) > LONGEST_TEXT:
            limit = f"{LONGEST_TEXT >> 20} MiB"
            raise DataError(f"{self.path} has {size >> 20} MiB, more than {limit}: split it into rows with 'text'")
        return self.path.read_bytes()

    def read(self, text: bytes, number: int) -> str:
        return text.decode("utf-8-sig")


def _items(source: DataSource, path: Path, tokenizer: Tokenizer) -> Items:
    if source.harmony is not None:
        return HarmonyItems(path, tokenizer)
    if source.jsonl is not None:
        return ChatItems(path)
    return TextItems(path) if holds_rows(path) else PlainText(path)


class _TextLine(msgspec.Struct, frozen=True):
    text: str


def from_harmony(tokenizer: Tokenizer, text: str) -> Conversation:
    """A conversation from its harmony text. ValueError if it is malformed."""
    parser = Parser(tokenizer, role=None)
    events = [event for token in tokenizer.encode_with_special(text) for event in parser.feed(token)] + parser.finish()
    if parser.flaws:
        raise ValueError(f"malformed harmony: {parser.flaws[0]}")
    return Conversation([event.message for event in events if isinstance(event, End)])
