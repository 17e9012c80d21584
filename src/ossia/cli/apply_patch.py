"""`ossia apply-patch`: apply a patch in the model's format to the files of a folder."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from ossia.cli.app import app
from ossia.cli.common import fail

LETTERS = {"add": "A", "update": "M", "delete": "D", "move": "R"}


@app.command(name="apply-patch")
def apply_patch(
    patch: Annotated[str, typer.Argument(help="A file with the patch; - reads standard input.")] = "-",
    root: Annotated[Path, typer.Option(help="The folder whose files may be changed.")] = Path(),
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check the patch and print the changes only.")] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Let files be added or moved over existing ones.")
    ] = False,
) -> None:
    """Apply a patch in the model's format: *** Begin Patch ... *** End Patch.

    All files are changed, or none: then standard error says what does not fit, and the exit status is 1.
    """
    from ossia.tools.patch.parse import MAX_PATCH, PatchError
    from ossia.tools.patch.paths import WorkspaceError
    from ossia.tools.patch.run import apply_patch as run
    from ossia.tools.patch.workspace import Workspace

    most = 4 * MAX_PATCH + 1  # a character has at most four bytes
    try:
        if patch == "-":
            data = sys.stdin.buffer.read(most)
        else:
            with Path(patch).open("rb") as file:
                data = file.read(most)
        result = run(data.decode(), Workspace(root), overwrite=overwrite, dry_run=dry_run)
    except UnicodeDecodeError as error:
        fail(f"the patch is not UTF-8 text (at byte {error.start})")
    except (PatchError, WorkspaceError, OSError) as error:
        fail(str(error))
    for done in result.operations:
        target = f" -> {done.moved_to}" if done.moved_to else ""
        fuzz = "  (white space or punctuation differs)" if done.fuzz else ""
        typer.echo(f"{LETTERS[done.kind]} {done.path}{target} +{done.added} -{done.removed}{fuzz}")
