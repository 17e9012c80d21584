"""Files of rows: JSON lines, JSON arrays, Parquet and Arrow, plain or compressed; single files, folders, patterns, caches.

Input: a path. Output: `Rows`: the JSON bytes of each row, by number. Rows stay on disk; memory holds one at a time.
`chat_rows` reads what a row means.
"""

import codecs
import glob
import gzip
import json
import re
import zlib
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import SpooledTemporaryFile
from typing import IO, Any, NamedTuple

import msgspec

MAX_ROW_BYTES = 64 << 20  # a longer row cannot fit a context
SPOOLED = 8 << 20  # bytes of unpacked rows that stay in memory; more go to a temporary file
CHUNK = 1 << 20
TEXTS, TABLES, PACKED = (".jsonl", ".ndjson", ".json"), (".parquet", ".arrow"), (".gz", ".zst")
ROW_KEYS = ("data", "rows", "train", "examples")  # keys of a JSON object that may have its rows
# First bytes and suffixes of other kinds of files, and what to do
MAGIC = {
    b"PAR1": "is a Parquet file: name it .parquet",
    b"ARROW1": "is an Arrow file: name it .arrow",
    b"\x1f\x8b": "is compressed with gzip: name it .jsonl.gz",
    b"\x28\xb5\x2f\xfd": "is compressed with zstd: name it .jsonl.zst",
    b"PK\x03\x04": "is a zip archive or a spreadsheet: unpack it, or save its rows as JSON lines",
    b"BZh": "is compressed with bzip2: unpack it first",
    b"\xfd7zXZ": "is compressed with xz: unpack it first",
}
TABULAR = {".csv": "read_csv(FILE)", ".tsv": "read_csv(FILE, sep='\\t')", ".feather": "read_feather(FILE)"}
NO_ROWS = ("dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json", "config.json")
# a split's name in a path, such as data/train-00000-of-00001.parquet
TRAINING, OTHERS = (
    re.compile(rf"(^|[^a-z])({names})([^a-z]|$)") for names in ("train|training", "test|valid|validation|val|eval|dev")
)


class DataError(ValueError):
    """Invalid training data. The message names the file and the line."""


class Row(NamedTuple):
    """A row's JSON. number: counted from 1; the line in a file of lines. start: byte offset to read it again."""

    number: int
    start: int
    text: bytes


def data_files(path: Path, say: Callable[[str], None]) -> list[Path]:
    """The files of a path: a file, the files of rows in a folder, or those of a glob. Raises DataError.

    Of several splits only the training split is used. say: gets a line that lists the other files.
    """
    if path.is_file():
        return [path]
    if path.is_dir():
        folder = _snapshot(path)
        found = [each for each in sorted(folder.rglob("*")) if holds_rows(each) and not _hidden(each, folder)]
        if not found:
            others = sorted(each.name for each in folder.rglob("*") if each.is_file() and not _hidden(each, folder))
            held = f"; it has {_some(others)}" if others else ""
            raise DataError(f"{path}: no file of rows ({', '.join((*TEXTS, *TABLES))}) in this folder{held}")
    else:
        folder = path.parent
        found = sorted(each for name in glob.glob(str(path), recursive=True) if (each := Path(name)).is_file())
        if not found:
            raise DataError(f"{path}: cannot be read: no such file or folder, and no file matches this pattern")
        return found  # a glob names its files itself, so no split is chosen
    names = {each: str(each.relative_to(folder)).lower() for each in found}
    chosen = [each for each in found if TRAINING.search(names[each])]
    chosen = chosen or [each for each in found if not OTHERS.search(names[each])] or found
    if left := [names[each] for each in found if each not in chosen]:
        say(f"{path}: only the training split is read; skipped: {_some(left)}")
    return chosen


def _snapshot(folder: Path) -> Path:
    """The main revision of a data set in the Hugging Face cache (datasets--OWNER--NAME); else the folder itself."""
    if not folder.name.startswith("datasets--") or not (folder / "snapshots").is_dir():
        return folder
    main = folder / "refs" / "main"
    named = folder / "snapshots" / main.read_text("utf-8").strip() if main.is_file() else None
    if named and named.is_dir():
        return named
    snapshots = sorted(each for each in (folder / "snapshots").iterdir() if each.is_dir())
    if len(snapshots) != 1:
        raise DataError(f"{folder}: has {len(snapshots)} snapshots and no refs/main: give the folder of one snapshot")
    return snapshots[0]


def holds_rows(path: Path) -> bool:
    """Whether a file has a name of a file of rows."""
    suffixes = path.suffixes[:-1] if path.suffix in PACKED else path.suffixes
    return path.is_file() and bool(suffixes) and suffixes[-1] in (*TEXTS, *TABLES) and path.name not in NO_ROWS


def _hidden(path: Path, folder: Path) -> bool:
    return any(part.startswith((".", "_")) for part in path.relative_to(folder).parts)


def _some(names: list[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


class Rows:
    """A file's rows. `scan` reads all; `at` reads one again. unit: "line" or "row", for errors.

    Files without random access (compressed, Parquet, a JSON array) are unpacked first; large ones to a temporary file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with _readable(path):
            _check_kind(path)
            rows = _unpacked(path)
            self.unit = "line" if rows is None else "row"
            self._file: IO[bytes] = path.open("rb") if rows is None else _spooled(rows)

    def scan(self) -> Iterator[Row]:
        """All rows but blank lines. Raises DataError for a file that is not text."""
        number, start = 0, 0
        while True:
            self._file.seek(start)
            line = self._file.readline(MAX_ROW_BYTES + 1)
            number += 1
            if not line:
                return
            if len(line) > MAX_ROW_BYTES:
                raise DataError(f"{self.path}, {self.unit} {number}: longer than {MAX_ROW_BYTES >> 20} MiB")
            text = _cleaned(line, self.path) if number == 1 else line.strip()
            if text:
                yield Row(number, start, text)
            start += len(line)

    def at(self, start: int) -> bytes:
        self._file.seek(start)
        line = self._file.readline(MAX_ROW_BYTES + 1)
        return (line.removeprefix(codecs.BOM_UTF8) if start == 0 else line).strip()


def _cleaned(line: bytes, path: Path) -> bytes:
    """The first line, without a BOM. Raises DataError for other encodings than UTF-8."""
    if line.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) or b"\0" in line[:4]:
        raise DataError(f"{path}: is UTF-16 or UTF-32: convert it to UTF-8")
    return line.removeprefix(codecs.BOM_UTF8).strip()


def _check_kind(path: Path) -> None:
    """DataError, with a remedy, for a file of an unsupported kind, or of another kind than its name says."""
    with path.open("rb") as file:
        start = file.read(64)
    if not start:
        raise DataError(f"{path}: is empty")
    if start.startswith(b"version https://git-lfs"):
        raise DataError(f"{path}: is a Git LFS pointer, not the data: run git lfs pull")
    plain = path.with_suffix("") if path.suffix in PACKED else path
    if reader := TABULAR.get(plain.suffix.lower()):
        remedy = f"pandas.{reader}.to_json('rows.jsonl', orient='records', lines=True, force_ascii=False)"
        raise DataError(
            f"{path}: {plain.suffix} files are not supported: write the rows as JSON lines, for example by {remedy}"
        )
    if path.suffix not in (*PACKED, *TABLES) and (found := next((m for m in MAGIC if start.startswith(m)), None)):
        raise DataError(f"{path}: {MAGIC[found]}")


@contextmanager
def _readable(path: Path) -> Generator[None]:
    """Raise errors of reading a file as DataError."""
    try:
        yield
    except DataError:
        raise
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != "pyarrow":
            raise
        raise DataError(f"{path}: this format needs pyarrow: pip install 'ossia[parquet]'") from error
    except (OSError, ValueError, EOFError, RecursionError, zlib.error) as error:
        raise DataError(f"{path}: cannot be read: {error}") from error


def _spooled(rows: Iterator[bytes]) -> IO[bytes]:
    file = SpooledTemporaryFile(max_size=SPOOLED)  # noqa: SIM115 - stays open while its rows are read
    for row in rows:
        file.write(row + b"\n")
    return file  # type: ignore[return-value]


def _unpacked(path: Path) -> Iterator[bytes] | None:
    """The rows of a file without random access; None for plain lines."""
    if path.suffix == ".parquet":
        return _parquet(path)
    if path.suffix == ".arrow":
        return _arrow(path)
    if path.suffix in PACKED:
        if path.with_suffix("").suffix in TABLES:
            raise DataError(f"{path}: unpack it first: {path.with_suffix('').suffix} files are compressed inside")
        return _of_text(path)
    with path.open("rb") as file:
        if _is_array(file):
            return _of_text(path)
    return _of_object(path)


def _of_object(path: Path) -> Iterator[bytes] | None:
    """The rows of a file that is one JSON object: those under one of its keys, or itself. None for lines."""
    if path.suffix != ".json" or path.stat().st_size > MAX_ROW_BYTES:
        return None
    try:
        whole = msgspec.json.decode(path.read_bytes().removeprefix(codecs.BOM_UTF8))
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    if not isinstance(whole, dict):
        return None
    for key in ROW_KEYS:
        rows = whole.get(key)
        if isinstance(rows, list) and rows and all(isinstance(row, dict) for row in rows):
            # Hugging Face's viewer wraps each row in an object with its number
            return (msgspec.json.encode(row["row"] if "row_idx" in row and "row" in row else row) for row in rows)
    return iter([msgspec.json.encode(whole)])


def _of_text(path: Path) -> Iterator[bytes]:
    """The rows of a text that is compressed, a JSON array, or both."""
    with _opened(path) as file:
        is_array = _is_array(file)
    with _opened(path) as file:
        if is_array:
            yield from _array(file)
            return
        while line := file.readline(MAX_ROW_BYTES + 1):
            if len(line) > MAX_ROW_BYTES:
                raise ValueError(f"a line is longer than {MAX_ROW_BYTES >> 20} MiB")
            yield line.rstrip(b"\r\n")


def _opened(path: Path) -> IO[bytes]:
    if path.suffix == ".gz":
        return gzip.open(path, "rb")  # type: ignore[return-value]
    if path.suffix == ".zst":
        from io import BufferedReader

        import pyarrow  # pyright: ignore[reportMissingImports]

        return BufferedReader(pyarrow.CompressedInputStream(pyarrow.OSFile(str(path)), "zstd"), CHUNK)  # type: ignore[arg-type]
    return path.open("rb")


def _is_array(file: IO[bytes]) -> bool:
    """Whether a text is one JSON array of rows. A line that is an array of messages is itself a row."""
    start = file.read(CHUNK).removeprefix(codecs.BOM_UTF8).lstrip()
    if not start.startswith(b"["):
        return False
    first = start[1:].lstrip()
    if not first.startswith(b"{"):
        return not first.startswith(b"[")
    try:
        found, _ = json.JSONDecoder().raw_decode(first.decode("utf-8", "ignore"))
    except ValueError:  # longer than the chunk: a row, as messages are shorter
        return True
    return not ("role" in found or "from" in found)


def _array(file: IO[bytes]) -> Iterator[bytes]:
    """The elements of a JSON array, which may be larger than memory."""
    decoder, utf8 = json.JSONDecoder(), codecs.getincrementaldecoder("utf-8-sig")()
    text, at, ended = utf8.decode(file.read(CHUNK)).lstrip().removeprefix("["), 0, False
    size = CHUNK
    while True:
        at = _skipped(text, at)
        try:
            if text[at : at + 1] == "]":
                if text[at + 1 :].strip() or file.read(CHUNK).strip():
                    raise ValueError("there is text after the array: put all rows into one array")
                return
            value, end = decoder.raw_decode(text, at)
        except json.JSONDecodeError as error:
            if ended or len(text) - at > MAX_ROW_BYTES:
                raise ValueError(f"the array is not JSON: {error}") from error
            more = file.read(size)
            ended, size = not more, size * 2
            text, at = text[at:] + utf8.decode(more, final=ended), 0
            continue
        yield json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass")
        at, size = end, CHUNK


def _skipped(text: str, at: int) -> int:
    while at < len(text) and text[at] in " \t\r\n,":
        at += 1
    return at


def _parquet(path: Path) -> Iterator[bytes]:
    from pyarrow import parquet  # pyright: ignore[reportMissingImports]

    with parquet.ParquetFile(path) as file:
        for batch in file.iter_batches(batch_size=256):
            yield from map(_row, batch.to_pylist())


def _arrow(path: Path) -> Iterator[bytes]:
    import pyarrow  # pyright: ignore[reportMissingImports]

    with path.open("rb") as file:
        is_stream = not file.read(8).startswith(b"ARROW1")  # `datasets` writes streams, `feather` files
    with (
        pyarrow.OSFile(str(path)) as file,
        (pyarrow.ipc.open_stream if is_stream else pyarrow.ipc.open_file)(file) as reader,
    ):
        batches = reader if is_stream else map(reader.get_batch, range(reader.num_record_batches))
        for batch in batches:
            for start in range(0, batch.num_rows, 256):
                yield from map(_row, batch.slice(start, 256).to_pylist())


def _row(row: dict[str, Any]) -> bytes:
    return msgspec.json.encode(_without_nulls(row), enc_hook=str)


def _without_nulls(value: Any) -> Any:
    """A table fills keys that a row does not have with null; remove them."""
    match value:
        case dict():
            return {key: _without_nulls(each) for key, each in value.items() if each is not None}
        case list():
            return [_without_nulls(each) for each in value]
    return value


def pieces(path: Path, end: bytes, start: int = 0) -> Iterator[bytes]:
    """The parts of a file between occurrences of `end`, from a byte on. Raises DataError."""
    with _readable(path), path.open("rb") as file:
        file.seek(start)
        held = b""
        while more := file.read(CHUNK):
            *whole, held = (held + more).split(end)
            yield from whole
            if len(held) > MAX_ROW_BYTES:
                raise DataError(f"{path}: a text of more than {MAX_ROW_BYTES >> 20} MiB without {end.decode()}")
        yield held
