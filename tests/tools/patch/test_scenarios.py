"""What patches do to a folder: files before, the patch, files after; or the error, and then nothing has changed."""

from pathlib import Path
from typing import NamedTuple

import pytest

from ossia.tools.patch.parse import PatchError
from ossia.tools.patch.run import apply_patch
from ossia.tools.patch.workspace import Workspace

POEM = "one\ntwo\nthree\nfour\nfive\n"


class Case(NamedTuple):
    name: str
    patch: str
    before: dict[str, str]
    after: dict[str, str] | None = None
    error: str = ""


def wrapped(body: str) -> str:
    return f"*** Begin Patch\n{body}\n*** End Patch\n"


WORKS = [
    Case("add a file", wrapped("*** Add File: a.txt\n+hi\n+there"), {}, {"a.txt": "hi\nthere\n"}),
    Case("add an empty file", wrapped("*** Add File: a.txt"), {}, {"a.txt": ""}),
    Case("add a file in new folders", wrapped("*** Add File: x/y/z.txt\n+hi"), {}, {"x/y/z.txt": "hi\n"}),
    Case(
        "several operations",
        wrapped("*** Add File: new\n+n\n*** Update File: a\n@@\n-two\n+2\n*** Delete File: gone"),
        {"a": POEM, "gone": "x\n"},
        {"new": "n\n", "a": POEM.replace("two", "2")},
    ),
    Case(
        "several hunks",
        wrapped("*** Update File: a\n@@\n one\n-two\n+2\n@@\n-four\n+4\n five"),
        {"a": POEM},
        {"a": "one\n2\nthree\n4\nfive\n"},
    ),
    Case(
        "move and change",
        wrapped("*** Update File: a\n*** Move to: dir/b\n@@\n-two\n+2"),
        {"a": POEM},
        {"dir/b": POEM.replace("two", "2")},
    ),
    Case("move only", wrapped("*** Update File: a\n*** Move to: b"), {"a": POEM}, {"b": POEM}),
    Case("move to itself", wrapped("*** Update File: a\n*** Move to: ./a\n@@\n-two\n+2"), {"a": POEM}, {"a": POEM.replace("two", "2")}),
    Case("delete", wrapped("*** Delete File: a"), {"a": POEM, "b": "x"}, {"b": "x"}),
    Case("first hunk without @@", wrapped("*** Update File: a\n one\n-two\n+2"), {"a": POEM}, {"a": POEM.replace("two", "2")}),
    Case("only insertions are appended", wrapped("*** Update File: a\n@@\n+six"), {"a": POEM}, {"a": POEM + "six\n"}),
    Case(
        "an insertion after a header",
        wrapped("*** Update File: a\n@@ two\n+2.5"), {"a": POEM}, {"a": POEM.replace("two\n", "two\n2.5\n")},
    ),
    Case(
        "an insertion between context",
        wrapped("*** Update File: a\n@@\n two\n+2.5\n three"), {"a": POEM}, {"a": POEM.replace("two\n", "two\n2.5\n")},
    ),
    Case(
        "a header finds the second place",
        wrapped("*** Update File: a\n@@ def g():\n-    pass\n+    return 1"),
        {"a": "def f():\n    pass\ndef g():\n    pass\n"},
        {"a": "def f():\n    pass\ndef g():\n    return 1\n"},
    ),
    Case(
        "stacked headers",
        wrapped("*** Update File: a\n@@ class B:\n@@     def f():\n-        pass\n+        return 1"),
        {"a": "class A:\n    def f():\n        pass\nclass B:\n    def f():\n        pass\n"},
        {"a": "class A:\n    def f():\n        pass\nclass B:\n    def f():\n        return 1\n"},
    ),
    Case(
        "a stacked header without its end",
        wrapped("*** Update File: a\n@@ class B\n@@ def f\n-        pass\n+        return 1"),
        {"a": "class A:\n    def f():\n        pass\nclass B(A):\n    def f():\n        pass\n"},
        {"a": "class A:\n    def f():\n        pass\nclass B(A):\n    def f():\n        return 1\n"},
    ),
    Case(
        "a header repeated as the first line",
        wrapped("*** Update File: a\n@@ two\n two\n-three\n+3"), {"a": POEM}, {"a": POEM.replace("three", "3")},
    ),
    Case(
        "the header of a unified diff",
        wrapped("*** Update File: a\n@@ -2,1 +2,1 @@ one\n-two\n+2"), {"a": POEM}, {"a": POEM.replace("two", "2")},
    ),
    Case(
        "the end of the file decides between equal places",
        wrapped("*** Update File: a\n@@\n-x\n+y\n*** End of File"), {"a": "x\nm\nx\n"}, {"a": "x\nm\ny\n"},
    ),
    Case(
        "lines that are not at the end after all",
        wrapped("*** Update File: a\n@@\n-two\n+2\n*** End of File"), {"a": POEM}, {"a": POEM.replace("two", "2")},
    ),
    Case(
        "an insertion at the end of the file",
        wrapped("*** Update File: a\n@@ one\n+six\n*** End of File"), {"a": POEM}, {"a": POEM + "six\n"},
    ),
    Case(
        "markers with spaces around them",
        "  *** Begin Patch  \n  *** Update File: a  \n@@\n-two\n+2\n *** End Patch\n\n", {"a": POEM}, {"a": POEM.replace("two", "2")},
    ),
    Case(
        "a heredoc around the patch",
        "apply_patch <<'EOF'\n" + wrapped("*** Delete File: a") + "EOF\n", {"a": POEM}, {},
    ),
    Case("a code fence around the patch", "```diff\n" + wrapped("*** Delete File: a") + "```\n", {"a": POEM}, {}),
    Case("no envelope", "*** Delete File: a\n", {"a": POEM}, {}),
    Case("no envelope, in a heredoc", "<<EOF\n*** Add File: b\n+x\nEOF\n", {}, {"b": "x\n"}),
    Case(
        "Unicode punctuation is taken as equal to ASCII's",
        wrapped("*** Update File: a\n@@\n-say - 'hi'\n+bye"), {"a": "x\nsay \u2013 \u2018hi\u2019\ny\n"}, {"a": "x\nbye\ny\n"},
    ),
    Case(
        "Unicode content",
        wrapped("*** Update File: naïve.txt\n@@\n-héllo 世界\n+héllo 🌍"), {"naïve.txt": "héllo 世界\n"}, {"naïve.txt": "héllo 🌍\n"},
    ),
    Case(
        "white space at line ends differs: lines that stay keep the file's own",
        wrapped("*** Update File: a\n@@\n one\n-two\n+2"), {"a": "one  \ntwo\t\n"}, {"a": "one  \n2\n"},
    ),
    Case("indentation differs", wrapped("*** Update File: a\n@@\n one\n-two\n+  2"), {"a": "  one\n  two\n"}, {"a": "  one\n  2\n"}),
    Case(
        "a CRLF file keeps its line ends", wrapped("*** Update File: a\n@@\n-two\n+2\n+two"),
        {"a": "one\r\ntwo\r\n"}, {"a": "one\r\n2\r\ntwo\r\n"},
    ),
    Case("a CRLF patch", wrapped("*** Update File: a\n@@\n-two\n+2").replace("\n", "\r\n"), {"a": POEM}, {"a": POEM.replace("two", "2")}),
    Case("mixed line ends stay", wrapped("*** Update File: a\n@@\n-b\n+B"), {"a": "a\r\nb\r\nc\n"}, {"a": "a\r\nB\r\nc\n"}),
    Case("no final newline stays so", wrapped("*** Update File: a\n@@\n-b\n+B\n+C"), {"a": "a\nb"}, {"a": "a\nB\nC"}),
    Case("a BOM stays", wrapped("*** Update File: a\n@@\n-a\n+b"), {"a": "\ufeffa\n"}, {"a": "\ufeffb\n"}),
    Case("an empty file is filled", wrapped("*** Update File: a\n@@\n+x"), {"a": ""}, {"a": "x\n"}),
    Case("a file is emptied", wrapped("*** Update File: a\n@@\n-x"), {"a": "x\n"}, {"a": ""}),
    Case("a carriage return inside a line stays", wrapped("*** Update File: a\n@@\n-b\n+c"), {"a": "x\ry\nb\n"}, {"a": "x\ry\nc\n"}),
    Case("a line separator of Unicode is no line end", wrapped("*** Update File: a\n@@\n-b\n+c"), {"a": "x\u2028\x0by\nb\n"}, {"a": "x\u2028\x0by\nc\n"}),
    Case(
        "a blank line in a hunk is a blank line of the file",
        wrapped("*** Update File: a\n@@\n one\n\n-two\n+2"), {"a": "one\n\ntwo\n"}, {"a": "one\n\n2\n"},
    ),
    Case(
        "blank lines between operations are ignored",
        wrapped("\n*** Update File: a\n\n@@\n-two\n+2\n\n\n*** Update File: b\n@@\n-x\n+y\n"),
        {"a": POEM, "b": "x\n"}, {"a": POEM.replace("two", "2"), "b": "y\n"},
    ),
    Case("a blank line in an added file", wrapped("*** Add File: a\n+x\n\n+y\n"), {}, {"a": "x\n\ny\n"}),
    Case(
        "one file twice",
        wrapped("*** Update File: a\n@@\n-one\n+1\n*** Update File: a\n@@\n-1\n+I"), {"a": POEM}, {"a": POEM.replace("one", "I")},
    ),
    Case("delete and add", wrapped("*** Delete File: a\n*** Add File: a\n+x"), {"a": POEM}, {"a": "x\n"}),
    Case(
        "move and put another in its place",
        wrapped("*** Update File: a\n*** Move to: b\n*** Add File: a\n+x"), {"a": POEM}, {"a": "x\n", "b": POEM},
    ),
    Case("a marker as content", wrapped("*** Add File: a\n+*** End Patch\n+*** Delete File: b"), {}, {"a": "*** End Patch\n*** Delete File: b\n"}),
    Case(
        "hunks that share context",
        wrapped("*** Update File: a\n@@\n-two\n+2\n three\n@@\n-three\n+3\n four\n five\n@@\n four\n+4.5\n five"),
        {"a": POEM}, {"a": "one\n2\n3\nfour\n4.5\nfive\n"},
    ),
    Case("only context", wrapped("*** Update File: a\n@@\n two"), {"a": POEM}, {"a": POEM}),
    Case(
        "the note of a missing newline is ignored",
        wrapped("*** Update File: a\n@@\n-b\n\\ No newline at end of file\n+c"), {"a": "b"}, {"a": "c"},
    ),
]  # fmt: skip

FAILS = [
    Case("an empty text", "", {}, error="the patch is empty"),
    Case("an empty patch", wrapped(""), {}, error="the patch is empty"),
    Case("no patch", "Hello", {}, error=r"line 1: 'Hello' is not the marker \*\*\* Begin Patch"),
    Case("a cut patch", "*** Begin Patch\n*** Delete File: a\n", {"a": "x"}, error=r"no \*\*\* End Patch: it seems to be cut"),
    Case("text before", "cd x && apply_patch <<EOF\n" + wrapped("*** Delete File: a") + "EOF", {"a": "x"}, error="line 1: unexpected text before"),
    Case("text after", wrapped("*** Delete File: a") + "rm b", {"a": "x"}, error="line 4: unexpected text after .*'rm b'"),
    Case("an unknown operation", wrapped("*** Frobnicate File: a"), {}, error=r"line 2: '\*\*\* Frobnicate File: a' is not a file header"),
    Case("no path", wrapped("*** Delete File:"), {}, error="line 2: .* has no path"),
    Case("no target", wrapped("*** Update File: a\n*** Move to:"), {"a": "x\n"}, error="line 3: .* has no path"),
    Case("no hunks", wrapped("*** Update File: a"), {"a": "x\n"}, error="a has no hunks"),
    Case("a hunk without lines", wrapped("*** Update File: a\n@@ x"), {"a": "x\n"}, error="line 3: a hunk of a has no lines"),
    Case("a hunk of blank lines", wrapped("*** Update File: a\n@@\n\n \n"), {"a": "x\n\n\n"}, error="has no lines"),
    Case("a line without sign", wrapped("*** Update File: a\n@@\n-x\ny"), {"a": "x\ny\n"}, error="line 5: 'y' in a hunk of a begins with neither"),
    Case("an unknown marker in a hunk", wrapped("*** Update File: a\n@@\n-x\n*** Foo"), {"a": "x\n"}, error="line 5: "),
    Case("a hunk after the end of the file", wrapped("*** Update File: a\n@@\n-x\n*** End of File\n+y"), {"a": "x\n"}, error="begin one with @@"),
    Case("an added line without +", wrapped("*** Add File: a\n+x\ny"), {}, error="line 4: 'y' in an added file does not begin with +"),
    Case("add over a file", wrapped("*** Add File: a\n+x"), {"a": POEM}, error="'a' exists already; use"),
    Case("move over a file", wrapped("*** Update File: a\n*** Move to: b"), {"a": "1", "b": "2"}, error="'a' cannot be moved: 'b' exists already"),
    Case("delete a missing file", wrapped("*** Delete File: a"), {}, error="'a' does not exist, so it cannot be deleted"),
    Case("update a missing file", wrapped("*** Update File: a\n@@\n-x\n+y"), {}, error="'a' does not exist; use"),
    Case("delete a folder", wrapped("*** Delete File: d"), {"d/a": "x"}, error="'d' is a folder, not a file"),
    Case("a file as a folder", wrapped("*** Add File: a/b\n+x"), {"a": "x"}, error="'a' is a file, not a folder"),
    Case("a new file as a folder", wrapped("*** Add File: a\n+x\n*** Add File: a/b\n+y"), {}, error="'a/b' cannot be inside 'a'"),
    Case("delete twice", wrapped("*** Delete File: a\n*** Delete File: a"), {"a": "x"}, error="'a' does not exist"),
    Case(
        "a later operation fails",
        wrapped("*** Add File: new\n+n\n*** Delete File: gone\n*** Update File: a\n@@\n-x\n+y"),
        {"a": POEM, "gone": "g"}, error="does not fit",
    ),
    Case(
        "missing context",
        wrapped("*** Update File: a\n@@\n-one\n+1\n@@\n three\n-fuor\n+4\n five"),
        {"a": POEM},
        error=r"hunk 2 of 'a' \(patch line 6\) does not fit: line 2 of its 3 old lines differs at file line 4: "
        "expected 'fuor', the file has 'four'; the hunk before it fits",
    ),
    Case("nothing like it", wrapped("*** Update File: a\n@@\n-qqqq\n+y"), {"a": POEM}, error="no line of the file is like 'qqqq'; read the file again"),
    Case("a similar line", wrapped("*** Update File: a\n@@\n-thre\n+y"), {"a": POEM}, error="file line 3: expected 'thre', the file has 'three'"),
    Case("past the end", wrapped("*** Update File: a\n@@\n five\n-six\n+y"), {"a": POEM}, error="file line 6: expected 'six', the file has no such line"),
    Case("hunks out of order", wrapped("*** Update File: a\n@@\n-four\n+4\n@@\n-two\n+2"), {"a": POEM}, error="at file line 2, before the end of the previous hunk; use file order"),
    Case("hunks that change the same line", wrapped("*** Update File: a\n@@\n-two\n+2\n@@\n-two\n+II"), {"a": POEM}, error="before the end of the previous hunk"),
    Case("a stacked header that is missing", wrapped("*** Update File: a\n@@ one\n@@ zwei\n-three\n+3"), {"a": POEM}, error="no line equals the header 'zwei'"),
    Case("an insertion after a missing header", wrapped("*** Update File: a\n@@ tow\n+x"), {"a": POEM}, error="no line equals the header 'tow'"),
    Case("half a surrogate pair", wrapped("*** Add File: a\n+\ud800"), {}, error="surrogate"),
    Case("a NUL", wrapped("*** Add File: a\n+\0"), {}, error="NUL"),
]  # fmt: skip


def written(root: Path, files: dict[str, str]) -> Workspace:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text.encode())
    return Workspace(root)


def files_in(root: Path) -> dict[str, str]:
    return {str(p.relative_to(root)): p.read_bytes().decode() for p in sorted(root.rglob("*")) if p.is_file()}


@pytest.mark.parametrize("case", WORKS, ids=lambda case: case.name)
def test_a_patch_that_fits_changes_the_files(case: Case, tmp_path: Path):
    apply_patch(case.patch, written(tmp_path, case.before))
    assert files_in(tmp_path) == case.after


@pytest.mark.parametrize("case", WORKS, ids=lambda case: case.name)
def test_a_dry_run_changes_nothing(case: Case, tmp_path: Path):
    workspace = written(tmp_path, case.before)
    done = apply_patch(case.patch, workspace, dry_run=True)
    assert files_in(tmp_path) == case.before
    assert apply_patch(case.patch, workspace) == done


@pytest.mark.parametrize("case", FAILS, ids=lambda case: case.name)
def test_a_patch_that_does_not_fit_changes_nothing_and_says_why(case: Case, tmp_path: Path):
    workspace = written(tmp_path, case.before)
    with pytest.raises(PatchError, match=case.error):
        apply_patch(case.patch, workspace)
    assert files_in(tmp_path) == case.before


def test_files_may_be_overwritten_if_the_caller_allows_it(tmp_path: Path):
    workspace = written(tmp_path, {"a": "1\n", "b": "2\n"})
    apply_patch(wrapped("*** Add File: a\n+x\n*** Update File: a\n*** Move to: b"), workspace, overwrite=True)
    assert files_in(tmp_path) == {"b": "x\n"}


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (b"x\0y\n", "'a' is a binary file"),
        ("x\n".encode("utf-16"), "'a' is a binary file, or text in UTF-16"),
        (b"x\xffy\n", r"'a' is not UTF-8 text \(at byte 1\)"),
        (b"x\n" * 1_000_001, "'a' is larger than 2000000 bytes"),
    ],
)
def test_files_that_are_not_small_utf8_text_are_refused(data: bytes, error: str, tmp_path: Path):
    (tmp_path / "a").write_bytes(data)
    with pytest.raises(PatchError, match=error):
        apply_patch(wrapped("*** Update File: a\n@@\n-x\n+y"), Workspace(tmp_path))
    assert (tmp_path / "a").read_bytes() == data


def test_a_binary_file_may_be_moved_and_deleted(tmp_path: Path):
    for name in "ab":
        (tmp_path / name).write_bytes(b"\0\xff")
    apply_patch(wrapped("*** Update File: a\n*** Move to: c\n*** Delete File: b"), Workspace(tmp_path))
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"c": b"\0\xff"}


def test_the_result_lists_the_operations(tmp_path: Path):
    workspace = written(tmp_path, {"a": "one \ntwo\nthree\n", "gone": "x\ny\n"})
    body = "*** Add File: n\n+1\n*** Delete File: gone\n*** Update File: a\n*** Move to: b\n@@\n one\n-two\n+2\n+II"
    operations = apply_patch(wrapped(body), workspace).operations
    assert [(each.path, each.kind, each.added, each.removed, each.moved_to, each.fuzz) for each in operations] == [
        ("n", "add", 1, 0, None, 0),
        ("gone", "delete", 0, 2, None, 0),
        ("a", "move", 2, 1, "b", 1),
    ]
    assert operations[2].diff == "@@ -1,2 +1,3 @@\n one \n-two\n+2\n+II"


def test_limits_are_checked_before_the_work(tmp_path: Path):
    for patch, error in (
        (wrapped("*** Add File: a\n+" + "x" * 1_000_000), "longer than 1000000 characters"),
        (wrapped("\n".join(f"*** Add File: {n}" for n in range(201))), "more than 200 file operations"),
        (wrapped("*** Update File: a\n" + "@@\n+x\n" * 501), "more than 500 hunks"),
        (wrapped("*** Update File: a\n" + "@@ x\n" * 9 + "+x\n"), "more than 8 @@ headers"),
    ):
        with pytest.raises(PatchError, match=error):
            apply_patch(patch, written(tmp_path, {"a": "x"}))
