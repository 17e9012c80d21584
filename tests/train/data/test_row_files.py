"""Files of rows in every container that data sets come in; memory holds places, not rows."""

import gzip
import json
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from ossia.train.data.row_files import MAX_ROW_BYTES, DataError, Rows, data_files
from ossia.train.data.sources import Filed, SequenceStream, open_stream
from ossia.train.recipe import DataSource
from tests.support.vocabularies import small

ROWS = [
    {"messages": [{"role": "user", "content": f"é {i}"}, {"role": "assistant", "content": f"answer {i}", "tool_calls": None}]} for i in range(5)
]  # fmt: skip
LINES = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS).encode()


def parquet(path: Path, rows: list[dict[str, Any]]) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    parquet.write_table(pyarrow.Table.from_pylist(rows), path)


def arrow(path: Path, rows: list[dict[str, Any]]) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    table = pyarrow.Table.from_pylist(rows)
    with pyarrow.OSFile(str(path), "wb") as file, pyarrow.ipc.new_stream(file, table.schema) as writer:
        writer.write_table(table)


def arrow_file(path: Path, rows: list[dict[str, Any]]) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    table = pyarrow.Table.from_pylist(rows)
    with pyarrow.OSFile(str(path), "wb") as file, pyarrow.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table)


def zst(path: Path, data: bytes) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    with pyarrow.CompressedOutputStream(pyarrow.OSFile(str(path), "wb"), "zstd") as file:
        file.write(data)


FILES: dict[str, Any] = {
    "a.jsonl": lambda path: path.write_bytes(LINES),
    "bom.jsonl": lambda path: path.write_bytes(b"\xef\xbb\xbf" + LINES),
    "crlf.jsonl": lambda path: path.write_bytes(b"\r\n" + LINES.replace(b"\n", b"\r\n\r\n")),
    "no-end.jsonl": lambda path: path.write_bytes(LINES.rstrip()),
    "lists.jsonl": lambda path: path.write_text("\n".join(json.dumps(row["messages"]) for row in ROWS)),
    "lines.json": lambda path: path.write_bytes(LINES),
    "array.json": lambda path: path.write_text(json.dumps(ROWS)),
    "indented.json": lambda path: path.write_text("\ufeff" + json.dumps(ROWS, indent=2, ensure_ascii=False), "utf-8"),
    "array.jsonl": lambda path: path.write_text(json.dumps(ROWS)),
    "a.jsonl.gz": lambda path: path.write_bytes(gzip.compress(LINES)),
    "array.json.gz": lambda path: path.write_bytes(gzip.compress(json.dumps(ROWS).encode())),
    "a.jsonl.zst": lambda path: zst(path, LINES),
    "a.parquet": lambda path: parquet(path, ROWS),
    "a.arrow": lambda path: arrow(path, ROWS),
    "file.arrow": lambda path: arrow_file(path, ROWS),
}


def opened(source: DataSource, near: Path, said: list[str] | None = None, **more: Any) -> SequenceStream:
    say = said.append if said is not None else print
    how: dict[str, Any] = {"seed": 1, "max_seq_len": 600, "everything": False, "skip_bad": False, **more}
    return open_stream([source], small(), near=near, say=say, **how)


def answers(stream: SequenceStream, count: int = len(ROWS)) -> list[str]:
    texts = [small().decode(stream.take()[0].tokens) for _ in range(count)]
    return sorted(text.rpartition("<|message|>")[2].removesuffix("<|end|>") for text in texts)


WANTED = [f"answer {i}" for i in range(len(ROWS))]


@pytest.mark.parametrize("name", FILES)
def test_M3_every_container_holds_the_same_rows(tmp_path: Path, name: str):
    FILES[name](tmp_path / name)
    stream = opened(DataSource(jsonl=name), tmp_path)
    assert answers(stream) == WANTED
    assert answers(stream) == WANTED  # read again


def test_M3_a_parquet_rows_null_keys_are_none_of_its_own(tmp_path: Path):
    """Arrow gives every struct all keys; a tool would have parameters that were never declared."""
    call = {"id": "c", "function": {"name": "f", "arguments": {"a": 1}}}
    other = {"id": "d", "function": {"name": "g", "arguments": {"b": "x"}}}
    rows = [
        {"messages": [{"role": "user", "content": "?"}, {"role": "assistant", "content": None, "tool_calls": [each]}],
         "tools": [{"name": each["function"]["name"], "parameters": {"type": "object", "properties": {key: {"type": kind}}}}]}
        for each, key, kind in ((call, "a", "integer"), (other, "b", "string"))
    ]  # fmt: skip
    parquet(tmp_path / "a.parquet", rows)
    texts = [json.loads(row.text) for row in Rows(tmp_path / "a.parquet").scan()]
    assert [row["messages"][1]["tool_calls"][0]["function"]["arguments"] for row in texts] == [{"a": 1}, {"b": "x"}]
    assert [list(row["tools"][0]["parameters"]["properties"]) for row in texts] == [["a"], ["b"]]


def test_M3_without_pyarrow_the_error_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    import sys

    monkeypatch.setitem(sys.modules, "pyarrow", None)
    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    with pytest.raises(DataError, match=r"a.parquet: this format needs pyarrow: pip install 'ossia\[parquet\]'"):
        opened(DataSource(jsonl="a.parquet"), tmp_path)


@pytest.mark.parametrize(
    ("name", "data", "why"),
    [
        ("a.jsonl", "\ufeff{}".encode("utf-16"), "is UTF-16 or UTF-32: convert it to UTF-8"),
        ("a.jsonl", '{"messages": []}'.encode("utf-16-le"), "is UTF-16 or UTF-32"),
        ("a.parquet", b"version https://git-lfs.github.com/spec/v1\n", "is a Git LFS pointer"),
        ("a.jsonl.gz", b"version https://git-lfs.github.com/spec/v1\n", "is a Git LFS pointer"),
        ("a.csv", b"prompt,completion\na,b\n", r"\.csv files are not supported: .*read_csv\(FILE\)\.to_json"),
        ("a.tsv.gz", gzip.compress(b"prompt\tcompletion\n"), "files are not supported: .*sep="),
        ("a.jsonl", gzip.compress(LINES), "is compressed with gzip: name it .jsonl.gz"),
        ("a.jsonl", b"PAR1....", "is a Parquet file: name it .parquet"),
        ("rows.xlsx", b"PK\x03\x04....", "is a zip archive or a spreadsheet"),
        ("a.jsonl.bz2", b"BZh9", "is compressed with bzip2: unpack it first"),
        ("a.json", b"[{}][{}]", "there is text after the array"),
        ("a.parquet", b"", "is empty"),
        ("a.jsonl", b"version https://git-lfs.github.com/spec/v1\n", "is a Git LFS pointer"),
        ("a.json", b'[{"messages": [}]', "the array is not JSON"),
        ("a.json", b'[{"messages": []}', "the array is not JSON"),
        ("a.jsonl.gz", b"no gzip", "cannot be read"),
        ("a.jsonl.gz", gzip.compress(LINES)[:-20], "cannot be read"),
        ("a.parquet.gz", b"PAR1", "unpack it first"),
        ("a.jsonl", b"", "is empty"),
        ("a.jsonl", b"\n \n", "nothing to train on"),
    ],
)
def test_M3_a_file_that_cannot_be_read_says_why(tmp_path: Path, name: str, data: bytes, why: str):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(DataError, match=f"{name}: .*{why}"):
        opened(DataSource(jsonl=name), tmp_path)


def test_M3_a_damaged_parquet_file_says_so(tmp_path: Path):
    pytest.importorskip("pyarrow")
    (tmp_path / "a.parquet").write_bytes(b"PAR1 nothing")
    with pytest.raises(DataError, match=r"a.parquet: cannot be read"):
        opened(DataSource(jsonl="a.parquet"), tmp_path)


def split(folder: Path, names: dict[str, int]) -> None:
    for name, row in names.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(json.dumps(ROWS[row]))


def test_M3_a_folder_gives_its_training_split_and_says_what_is_left_out(tmp_path: Path):
    split(
        tmp_path,
        {
            "data/train-00000-of-00002.jsonl": 0,
            "data/train-00001-of-00002.json": 1,
            "data/test-00000.jsonl": 2,
            ".x/train.jsonl": 3,
        },
    )
    (tmp_path / "dataset_info.json").write_text("{}")
    (tmp_path / "README.md").write_text("# A data set")
    said: list[str] = []
    assert answers(opened(DataSource(jsonl="."), tmp_path, said), 2) == WANTED[:2]
    assert said == [f"{tmp_path}: only the training split is read; skipped: data/test-00000.jsonl"]


def test_M3_a_folder_without_splits_is_read_whole_but_for_its_tests(tmp_path: Path):
    split(tmp_path, {"one.jsonl": 0, "two.jsonl": 1, "contest.jsonl": 2, "dev.jsonl": 3})
    assert answers(opened(DataSource(jsonl="."), tmp_path), 3) == WANTED[:3]


def test_M3_a_pattern_names_its_files(tmp_path: Path):
    split(tmp_path, {"a/test.jsonl": 0, "b/train.jsonl": 1, "b/c.txt": 2})
    assert answers(opened(DataSource(jsonl="*/t*.jsonl"), tmp_path), 2) == WANTED[:2]
    with pytest.raises(DataError, match="no such file or folder, and no file matches this pattern"):
        opened(DataSource(jsonl="c/*.jsonl"), tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"no file of rows \(.jsonl, "):
        opened(DataSource(jsonl="empty"), tmp_path)


def test_M3_a_data_set_of_the_hub_cache_goes_to_its_main_revision(tmp_path: Path):
    home = tmp_path / "datasets--HuggingFaceH4--Multilingual-Thinking"
    split(home, {"snapshots/old/data/train.jsonl": 0, "snapshots/new/data/train.jsonl": 1})
    (home / "blobs").mkdir()
    with pytest.raises(DataError, match="has 2 snapshots and no refs/main"):
        data_files(home, print)
    (home / "refs").mkdir()
    (home / "refs" / "main").write_text("new")
    assert data_files(home, print) == [home / "snapshots" / "new" / "data" / "train.jsonl"]


def test_M3_columns_that_are_not_read_are_named_in_one_line(tmp_path: Path):
    rows = [{**row, "source": "web", **({"score": 1} if i else {})} for i, row in enumerate(ROWS)]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    said: list[str] = []
    opened(DataSource(jsonl="a.jsonl"), tmp_path, said)
    assert said == [f"{tmp_path / 'a.jsonl'}: ignored: column 'source' (in 5 rows), column 'score' (in 4 rows)"]


def test_M3_skip_bad_is_advised_only_where_some_rows_are_good(tmp_path: Path):
    bad = json.dumps({"question": "x"})
    for rows, advised in (([bad, bad], False), ([bad, json.dumps(ROWS[0])], True), ([json.dumps(ROWS[0]), bad], True)):
        (tmp_path / "a.jsonl").write_text("\n".join(rows))
        with pytest.raises(DataError, match=r"a.jsonl, line \d: its columns") as caught:
            opened(DataSource(jsonl="a.jsonl"), tmp_path)
        assert ("--skip-bad" in str(caught.value)) == advised
    (tmp_path / "a.jsonl").write_text(bad)
    with pytest.raises(DataError, match=r"nothing to train on\n.*a.jsonl, line 1: its columns"):
        opened(DataSource(jsonl="a.jsonl"), tmp_path, skip_bad=True)


def test_M3_a_row_that_is_too_long_to_hold_is_refused(tmp_path: Path):
    with (tmp_path / "a.jsonl").open("wb") as file:
        file.seek(MAX_ROW_BYTES + 10)
        file.write(b"x")
    with pytest.raises(DataError, match="line 1: longer than 64 MiB"):
        list(Rows(tmp_path / "a.jsonl").scan())


@pytest.mark.parametrize("kind", ["jsonl", "array"])
def test_M3_memory_does_not_grow_with_the_file(tmp_path: Path, kind: str):
    """28 bytes an item, and the rows that are read at a time."""
    row = json.dumps({"messages": [{"role": "user", "content": "x" * 20_000}, {"role": "assistant", "content": "y"}]})
    path, count = tmp_path / "a.json", 4000
    with path.open("w") as file:
        ends = ("[", ",\n", "]") if kind == "array" else ("", "\n", "\n")
        file.write(ends[0])
        for number in range(count):
            file.write((ends[1] if number else "") + row)
        file.write(ends[2])
    tracemalloc.start()
    rows = Rows(path)
    filed = Filed([], None, "")  # type: ignore[arg-type]
    for each in rows.scan():
        filed.add(0, each.start, each.number)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(filed) == count
    assert path.stat().st_size > 80e6
    assert peak < 24e6


@pytest.mark.parametrize("wrapped", ["data", "rows", "train", "examples"])
def test_M3_rows_under_a_key_of_one_json_object_are_read(tmp_path: Path, wrapped: str):
    rows = [{"messages": [{"role": "user", "content": str(n)}]} for n in range(3)]
    given = [{"row_idx": n, "row": row} for n, row in enumerate(rows)] if wrapped == "rows" else rows
    (tmp_path / "a.json").write_text(json.dumps({"version": 1, wrapped: given}, indent=2))
    assert [json.loads(row.text) for row in Rows(tmp_path / "a.json").scan()] == rows


def test_M3_one_row_over_several_lines_is_a_row(tmp_path: Path):
    row = {"messages": [{"role": "user", "content": "a"}]}
    (tmp_path / "a.json").write_text(json.dumps(row, indent=2), encoding="utf-8-sig")
    assert [json.loads(each.text) for each in Rows(tmp_path / "a.json").scan()] == [row]


def test_M3_a_folder_of_other_files_is_named_with_what_it_holds(tmp_path: Path):
    (tmp_path / "train.csv").write_text("prompt,completion\n")
    with pytest.raises(DataError, match=r"no file of rows .*it has train\.csv"):
        data_files(tmp_path, print)
