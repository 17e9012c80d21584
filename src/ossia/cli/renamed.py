"""Old names of options. They work for one release: hidden from --help, with a warning that names the new option.

Input: a command's arguments. Output: the same arguments with new names, or an error for an old and a new name together.
This file is the only place of the command line that knows old names.
"""

from typing import Any

import typer
from typer.core import TyperCommand

SERVE = {
    "--max-running": "--max-num-seqs",
    "--max-waiting": "--max-queued",
    "--answer-seconds": "--request-timeout",
    "--write-seconds": "--write-timeout",
    "--drain-seconds": "--shutdown-timeout",
    "--max-bodies-mb": "--max-total-body-mb",
    "--cache-gb": "--kv-cache-gb",
    "--prefix-gb": "--prefix-cache-gb",
}


class ServeCommand(TyperCommand):
    """A command that also takes the old names in `SERVE`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        try:
            renamed, said = with_new_options(args, SERVE)
        except ValueError as error:
            raise typer.BadParameter(str(error)) from None
        for line in said:
            typer.secho(f"warning: {line}", fg="yellow", err=True)
        return super().parse_args(ctx, renamed)


def with_new_options(args: list[str], names: dict[str, str]) -> tuple[list[str], list[str]]:
    """Arguments with new names, and a warning for each old name. ValueError for an old and its new name together."""
    end = args.index("--") if "--" in args else len(args)
    given = {arg.partition("=")[0] for arg in args[:end]}
    for old in given & names.keys():
        if names[old] in given:
            raise ValueError(f"both {old} and {names[old]}, which replaces it, are given: remove {old}")
    renamed = [_renamed(arg, names) for arg in args[:end]]
    said = [
        f"{old} is now {names[old]}; the old name will be an error in the next release" for old in names if old in given
    ]
    return [*renamed, *args[end:]], said


def _renamed(arg: str, names: dict[str, str]) -> str:
    name, equals, value = arg.partition("=")
    return names.get(name, name) + equals + value
