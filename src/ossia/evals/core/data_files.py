"""The files of a benchmark: found, hashed, compared with the version we know.

In: a benchmark and a data folder. Out: the sha256 of each file and warnings, or an error that says where people get it.
"""

from collections.abc import Sequence
from hashlib import file_digest
from pathlib import Path
from typing import NamedTuple

from ossia.evals.core.benchmark import BenchmarkFile


class CheckedData(NamedTuple):
    """The hash of each file by path, and a warning for each that is not the version we know."""

    hashes: dict[str, str]
    warnings: list[str]


def check_data(files: Sequence[BenchmarkFile], folder: Path) -> CheckedData:
    """Hash the files. Raises FileNotFoundError with path, sha256 and source of the first that is missing."""
    hashes: dict[str, str] = {}
    warnings: list[str] = []
    for each in files:
        path = folder / each.path
        if not path.is_file():
            known = f" (sha256 {each.sha256})" if each.sha256 else ""
            source = f"get it from {each.source}, put it there" if each.source else "put it there"
            raise FileNotFoundError(f"{path} is missing{known}: {source}, or give its folder with --data DIR")
        with path.open("rb") as file:
            hashes[each.path] = file_digest(file, "sha256").hexdigest()
        if each.sha256 and hashes[each.path] != each.sha256:
            warnings.append(f"data differs: {path} has sha256 {hashes[each.path]}, the known version {each.sha256}")
    return CheckedData(hashes, warnings)
