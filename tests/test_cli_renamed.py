"""Old names of options and recipe keys on the command line: they work, are hidden, and warn with the new name."""

import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from ossia.cli import app
from ossia.cli.renamed import SERVE, with_new_options


def test_an_old_option_is_replaced_with_a_warning_in_both_spellings():
    args, said = with_new_options(["--max-running", "4", "--cache-gb=2", "--port", "0"], SERVE)
    assert args == ["--max-num-seqs", "4", "--kv-cache-gb=2", "--port", "0"]
    assert [line.partition(";")[0] for line in said] == [
        "--max-running is now --max-num-seqs",
        "--cache-gb is now --kv-cache-gb",
    ]


def test_new_options_and_what_follows_two_dashes_stay_as_they_are():
    given = ["--max-num-seqs", "4", "--", "--max-running"]
    assert with_new_options(given, SERVE) == (given, [])


def test_an_old_and_its_new_option_together_are_an_error():
    wide = {"COLUMNS": "200"}
    done = CliRunner().invoke(app, ["serve", "--max-waiting", "1", "--max-queued", "2"], env=wide)
    assert done.exit_code == 2
    assert "remove --max-waiting" in done.stderr


def test_help_lists_every_new_option_and_no_old_one():
    done = CliRunner().invoke(app, ["serve", "--help"], env={"COLUMNS": "200"})
    words = set(done.output.split())
    assert set(SERVE.values()) <= words
    assert not SERVE.keys() & words


def test_an_old_option_reaches_the_setting_and_is_warned_of():
    done = CliRunner().invoke(app, ["serve", "--max-running", "0", "--no-state"])
    assert done.exit_code == 1
    assert "warning: --max-running is now --max-num-seqs" in done.stderr
    assert "max_num_seqs 0 is out of range" in done.stderr


@pytest.mark.parametrize(("rank", "shown"), [("0", True), ("1", False)])
def test_an_old_recipe_key_is_one_line_of_warning_from_the_first_process(tmp_path: Path, rank: str, shown: bool):
    (tmp_path / "recipe.toml").write_text(
        'start = "ossia-mini"\n[sft]\nsteps = 1\nstep_tokens = 100\ndata = [{jsonl = "a.jsonl"}]\n'
    )
    done = CliRunner().invoke(app, ["train", str(tmp_path / "recipe.toml"), "--plan"], env={"RANK": rank})
    assert done.exit_code == 0, done.output
    assert ("warning: [sft]: 'step_tokens' is now 'batch_tokens'" in done.stderr) == shown


@pytest.mark.parametrize("page", ["server.md", "server.ja.md"])
def test_the_docs_list_the_old_names(page: str):
    text = (Path(__file__).parents[1] / "docs" / page).read_text("utf-8")
    rows = re.findall(r"^\| `(--[\w-]+)` \| `(--[\w-]+)` \|$", text, re.M)
    assert dict(rows) == SERVE
