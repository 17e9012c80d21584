"""`ossia schema`: what can be enforced, what is left out, and which texts decoding would allow."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from ossia.cli import app

SCHEMA = {
    "type": "object",
    "properties": {"p": {"type": "number", "exclusiveMinimum": 0, "maximum": 0.25}, "t": {"uniqueItems": True}},
    "required": ["p"],
}


def schema(*arguments: str, given: str | None = None) -> Result:
    return CliRunner().invoke(app, ["schema", *arguments], input=given)


@pytest.fixture
def path(tmp_path: Path) -> str:
    (tmp_path / "schema.json").write_text(json.dumps(SCHEMA))
    return str(tmp_path / "schema.json")


def test_each_text_is_allowed_or_refused_as_decoding_would(path: str, tmp_path: Path):
    texts = [
        '{"p": 0}',
        '{"p": 0.250}',
        '{"p": 2.5e-1}',
        '{"p":\n0.1}'.replace("\n", " "),
        "{",
        "",
        '{"p": 0.1, "t": [1, 1]}',
    ]
    (tmp_path / "texts.jsonl").write_text("\n".join(texts) + "\n")
    done = schema(path, "--accept", str(tmp_path / "texts.jsonl"))
    assert done.exit_code == 0
    assert done.stdout.splitlines() == [
        "the schema can be enforced, without what follows",
        "not enforced: uniqueItems at #/properties/t: a grammar cannot compare items",
        *("refused", "allowed", "refused", "allowed", "refused", "refused", "allowed"),
    ]


def test_texts_come_from_standard_input_too(path: str):
    assert schema(path, "--accept", "-", given='{"p": 0.2}\n{"p": 1}').stdout.splitlines()[-2:] == [
        "allowed",
        "refused",
    ]


def test_strict_refuses_in_one_line(path: str):
    done = schema(path, "--strict")
    assert done.exit_code == 1
    assert done.stdout == ""
    assert (
        done.stderr
        == "error: the schema cannot be enforced: uniqueItems at #/properties/t: a grammar cannot compare items\n"
    )


@pytest.mark.parametrize(
    ("given", "words"),
    [("[1", "- holds no JSON: "), ("[1]", "no JSON schema"), ('{"type": "nonsense"}', "names no type")],
)
def test_what_is_no_schema_is_refused_in_one_line(given: str, words: str):
    done = schema("--strict", "-", given=given)
    assert done.exit_code == 1
    assert words in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("arguments", [("nowhere.json",), ("-", "--accept", "-")])
def test_files_that_cannot_be_read_are_refused_in_one_line(arguments: tuple[Any, ...]):
    done = schema(*arguments, given="{}")
    assert done.exit_code == 1
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
