"""`ossia apply-patch`: the changes on standard output, errors on standard error, and then no change."""

from pathlib import Path

from typer.testing import CliRunner

from ossia.cli import app

PATCH = (
    "*** Begin Patch\n*** Update File: a\n*** Move to: b\n@@\n-1\n+2\n+3\n*** Add File: new/c\n+x\n"
    "*** Delete File: d\n*** Update File: e\n@@\n-1\n+2\n*** End Patch\n"
)


def ran(patch: str | bytes, *options: str) -> tuple[int, str, str]:
    done = CliRunner().invoke(app, ["apply-patch", *options], input=patch)
    return done.exit_code, done.stdout, done.stderr


def files(root: Path) -> dict[str, str]:
    return {str(path.relative_to(root)): path.read_text() for path in root.rglob("*") if path.is_file()}


def prepared(root: Path) -> dict[str, str]:
    for name, text in {"a": "1\n", "d": "1\n", "e": "1 \n"}.items():
        (root / name).write_text(text)
    return files(root)


def test_the_changes_are_printed(tmp_path: Path):
    prepared(tmp_path)
    code, out, err = ran(PATCH, "--root", str(tmp_path))
    assert (code, err) == (0, "")
    assert out.splitlines() == [
        "R a -> b +2 -1",
        "A new/c +1 -0",
        "D d +0 -1",
        "M e +1 -1  (white space or punctuation differs)",
    ]
    assert files(tmp_path) == {"b": "2\n3\n", "new/c": "x\n", "e": "2\n"}


def test_a_dry_run_prints_the_same_and_changes_nothing(tmp_path: Path):
    before = prepared(tmp_path)
    dry = ran(PATCH, "--root", str(tmp_path), "--dry-run")
    assert files(tmp_path) == before
    assert dry == ran(PATCH, "--root", str(tmp_path))


def test_the_patch_may_be_in_a_file(tmp_path: Path):
    (tmp_path / "change.patch").write_text("*** Begin Patch\n*** Add File: a\n+1\n*** End Patch\n")
    assert ran("", str(tmp_path / "change.patch"), "--root", str(tmp_path))[:2] == (0, "A a +1 -0\n")
    assert "No such file" in ran("", str(tmp_path / "missing"), "--root", str(tmp_path))[2]


def test_an_error_changes_nothing(tmp_path: Path):
    before = prepared(tmp_path)
    code, out, err = ran(PATCH.replace("-1\n+2\n***", "-7\n+2\n***"), "--root", str(tmp_path))
    assert (code, out) == (1, "")
    assert "error: the hunk of 'e' (patch line 12) does not fit" in err
    assert files(tmp_path) == before


def test_other_errors_have_one_line(tmp_path: Path):
    for patch, options, error in (
        ("", (), "error: the patch is empty"),
        (b"\xff", (), "error: the patch is not UTF-8 text (at byte 0)"),
        ("x" * 5_000_000, (), "error: the patch is longer than 1000000 characters"),
        (PATCH, ("--root", str(tmp_path / "missing")), "is not a folder"),
        ("*** Begin Patch\n*** Delete File: ../x\n*** End Patch", (), "leaves the root folder"),
    ):
        code, out, err = ran(patch, *(options or ("--root", str(tmp_path))))
        assert (code, out) == (1, "")
        assert error in err
        assert len(err.splitlines()) == 1


def test_files_are_overwritten_only_on_request(tmp_path: Path):
    (tmp_path / "a").write_text("1\n")
    patch = "*** Begin Patch\n*** Add File: a\n+2\n*** End Patch"
    assert "exists already" in ran(patch, "--root", str(tmp_path))[2]
    assert ran(patch, "--root", str(tmp_path), "--overwrite")[1] == "A a +1 -0\n"
    assert files(tmp_path) == {"a": "2\n"}
