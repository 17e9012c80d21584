"""The log of a run: a folder that only grows, so that a run that was killed goes on where it was.

In: rows as they are graded. Out: `run.json`, `samples.jsonl`, `judge.jsonl`, and all rows of earlier starts.
Each row is one write. A torn last line, as kill -9 leaves it, is cut off at the next start.
"""

import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any, Self, TypeVar

import msgspec

from ossia.evals.core.benchmark import CallRequest, Finish, GradedRow, Outcome, TokenCounts
from ossia.evals.core.solver import TryKey
from ossia.harmony.messages import Effort, JsonObject
from ossia.task import Grade

RUN, SAMPLES, JUDGE, RESULT = "run.json", "samples.jsonl", "judge.jsonl", "result.json"
Row = TypeVar("Row", bound=msgspec.Struct)


class RunLogError(ValueError):
    """The log cannot be read or written. The text says what to do."""


class SampleRow(msgspec.Struct, kw_only=True):
    """One graded try, as a line of samples.jsonl."""

    sample: str
    repeat: int
    effort: Effort
    cluster: str = ""
    tags: list[str] = []
    score: float = 0.0
    reason: str = ""
    metrics: dict[str, Any] = {}
    text: str | None = None
    finish: Finish = "stop"
    calls: list[dict[str, str]] = []
    usage: dict[str, int] = {}
    flaws: list[str] = []
    seconds: float = 0.0
    error: str = ""
    meta: dict[str, Any] = {}
    messages: list[dict[str, Any]] = []

    @property
    def key(self) -> tuple[str, int, Effort]:
        return self.sample, self.repeat, self.effort

    def graded(self) -> GradedRow:
        """As aggregates read it."""
        outcome = Outcome(
            self.text,
            tuple(self.messages),
            tuple(CallRequest(**call) for call in self.calls),
            self.finish,
            TokenCounts(**self.usage),
            tuple(self.flaws),
            self.seconds,
            self.error,
            self.meta,
        )
        grade = Grade(self.score, self.reason, self.metrics)
        return GradedRow(self.sample, self.repeat, self.cluster, tuple(self.tags), grade, outcome)


def sample_row(key: TryKey, cluster: str, tags: tuple[str, ...], outcome: Outcome, grade: Grade) -> SampleRow:
    """The line of one graded try."""
    usage = outcome.usage
    return SampleRow(
        sample=key.sample,
        repeat=key.repeat,
        effort=key.effort,
        cluster=cluster or key.sample,
        tags=list(tags),
        score=grade.score,
        reason=grade.reason,
        metrics=dict(grade.metrics),
        text=outcome.text,
        finish=outcome.finish,
        calls=[call._asdict() for call in outcome.calls],
        usage={"prompt": usage.prompt, "output": usage.output, "reasoning": usage.reasoning},
        flaws=list(outcome.flaws),
        seconds=round(outcome.seconds, 3),
        error=outcome.error,
        meta=dict(outcome.meta),
        messages=[dict(message) for message in outcome.messages],
    )


class JudgeRow(msgspec.Struct, kw_only=True):
    """One answer of the judge, as a line of judge.jsonl. prompt: the sha256 of its messages."""

    sample: str
    repeat: int
    effort: str
    part: str
    attempt: int
    prompt: str
    text: str
    error: str = ""

    @property
    def key(self) -> tuple[str, int, str, str, int, str]:
        return self.sample, self.repeat, self.effort, self.part, self.attempt, self.prompt


class RunLog:
    """An open run's folder. Only one process writes to it."""

    def __init__(self, folder: Path, config: JsonObject, facts: JsonObject, *, force: bool = False) -> None:
        """Begin a run, or continue the one in this folder. Raises RunLogError if it is another run's.

        config: what changes the rows; a run with another config is another run. facts: what else run.json says.
        force: discard the run that is there.
        """
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._samples = _Lines(folder / SAMPLES)
        self._judged = _Lines(folder / JUDGE)
        try:
            self._begin(config, facts, force)
        except BaseException:
            self.close()
            raise

    def _begin(self, config: JsonObject, facts: JsonObject, force: bool) -> None:
        path, digest = self.folder / RUN, config_hash(config)
        if force:
            self._samples.clear()
            self._judged.clear()
            path.unlink(missing_ok=True)
            (self.folder / RESULT).unlink(missing_ok=True)
        if path.exists():
            found = read_run(self.folder)
            if found.get("config_hash") != digest:
                raise RunLogError(
                    f"{self.folder} holds another run: {_difference(found.get('config'), config)}. "
                    "Give another --out, or --force to discard it"
                )
        elif self._samples.size:
            raise RunLogError(f"{path} is missing beside {SAMPLES}: give another --out, or --force to discard the rows")
        else:
            write_whole(path, {"config": config, "config_hash": digest, **facts})

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._samples.close()
        self._judged.close()

    def rows(self) -> list[SampleRow]:
        """All rows of the log, the newest of each try."""
        return read_rows(self.folder)

    def judged(self) -> list[JudgeRow]:
        return list(_read(self.folder / JUDGE, JudgeRow))

    def add(self, row: SampleRow) -> None:
        """Append a row. Raises RunLogError if the disk is full."""
        self._samples.add(row)

    def add_judged(self, row: JudgeRow) -> None:
        self._judged.add(row)

    def earlier_result(self) -> dict[str, Any]:
        """The result of an earlier start; empty if there is none."""
        try:
            value: Any = json.loads((self.folder / RESULT).read_text("utf-8"))
        except (FileNotFoundError, ValueError):
            return {}
        return value if isinstance(value, dict) else {}

    def finish(self, result: JsonObject) -> None:
        """Write the result of all rows."""
        write_whole(self.folder / RESULT, result)


def config_hash(config: JsonObject) -> str:
    return sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()


def _difference(old: object, new: JsonObject) -> str:
    before = old if isinstance(old, Mapping) else {}
    names = [name for name in {**before, **new} if before.get(name) != new.get(name)]
    return ", ".join(f"{name} is {before.get(name)!r} there and {new.get(name)!r} here" for name in names) or "damaged"


def read_run(folder: Path) -> dict[str, Any]:
    """The facts of a run. Raises RunLogError if there are none."""
    try:
        value: Any = json.loads((folder / RUN).read_text("utf-8"))
    except FileNotFoundError as error:
        raise RunLogError(f"{folder} holds no run: there is no {RUN}") from error
    except ValueError as error:
        raise RunLogError(f"{folder / RUN} is no JSON ({error}): give another --out, or --force") from error
    if not isinstance(value, dict):
        raise RunLogError(f"{folder / RUN} is no JSON object: give another --out, or --force")
    return value


def read_rows(folder: Path) -> list[SampleRow]:
    """The newest row of each try. A torn last line is left out."""
    return list({row.key: row for row in _read(folder / SAMPLES, SampleRow)}.values())


def runs_below(folder: Path) -> list[Path]:
    """The folders of runs in a folder, or itself."""
    return sorted(path.parent for path in folder.rglob(RUN)) if folder.is_dir() else []


def _read(path: Path, form: type[Row]) -> Iterator[Row]:
    if not path.exists():
        return
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if not line.endswith(b"\n"):
                return
            try:
                yield msgspec.convert(json.loads(line), form)
            except (ValueError, msgspec.ValidationError) as error:
                raise RunLogError(
                    f"{path}:{number} is no row ({error}): remove the line, or use another folder"
                ) from error


def write_whole(path: Path, value: JsonObject) -> None:
    """Replace a file at once, so that it is never half written."""
    part = path.with_suffix(".part")
    try:
        part.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", "utf-8")
        part.replace(path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise RunLogError(f"{path} cannot be written: {error.strerror}. {REMEDY}") from error


REMEDY = "The rows so far are kept: mend it and run the same command again"


class _Lines:
    """A file of JSON lines that is only appended to, locked against other processes."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(self._file)
            raise RunLogError(f"another process writes to {path.parent}: wait for it, or give another --out") from error
        self.size = self._cut_torn_line()

    def clear(self) -> None:
        os.ftruncate(self._file, 0)
        self.size = 0

    def close(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def add(self, row: msgspec.Struct) -> None:
        # the standard library writes lone surrogates, which a model's arguments may hold
        line = json.dumps(msgspec.to_builtins(row)).encode() + b"\n"
        try:
            written = os.write(self._file, line)
            if written < len(line):
                raise OSError(28, "No space left on device")
        except OSError as error:
            os.ftruncate(self._file, self.size)
            raise RunLogError(f"{self._path} cannot be written: {error.strerror}. {REMEDY}") from error
        self.size += len(line)

    def _cut_torn_line(self) -> int:
        """Cut what follows the last line break. Returns the file's size."""
        size = end = os.fstat(self._file).st_size
        while end:
            start = max(0, end - 65536)
            found = os.pread(self._file, end - start, start).rfind(b"\n")
            if found >= 0:
                end = start + found + 1
                break
            end = start
        if end < size:
            os.ftruncate(self._file, end)
        return end
