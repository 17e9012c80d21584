"""Changing one line of a file with repo_browser: read the file, patch it.

In: a seeded random source and a split. Out: examples. Graded by the files that the patches of the turn result in.
"""

import random
from collections.abc import Mapping, Sequence

from ossia.harmony.messages import Message, assistant
from ossia.mini.parts.build import Templates, example, opening, pick, thoughts
from ossia.mini.parts.words import ANIMALS, FRUIT, NAMES, some
from ossia.mini.tasks.tools.sessions import ToolRecorder, declared, folder_session, session_tools
from ossia.mini.tasks.tools.trees import tree
from ossia.task import Example, Grade, Split, Task, calls_of, final_text
from ossia.tools.functions import Tool
from ossia.tools.patch.call import patch_in
from ossia.tools.patch.parse import PatchError, parse_patch
from ossia.tools.patch.plan import plan
from ossia.tools.repo_browser.declaration import repo_browser_namespace

SET: Templates = {
    "train": ("Set {k} to {v} in {p}.", "Change {k} to {v} in the file {p}.", "In {p}, make {k} {v}."),
    "held": ("Please give {k} the value {v} in {p}.", "The {k} in {p} should be {v}."),
}
REPLACE: Templates = {
    "train": (
        'Replace the line "{o}" of {p} by "{v}".',
        'In {p}, change "{o}" to "{v}".',
        'Put "{v}" in place of "{o}" in {p}.',
    ),
    "held": ('The line "{o}" in {p} should read "{v}".', 'Please write "{v}" instead of "{o}" in {p}.'),
}
DELETE: Templates = {
    "train": ('Delete the line "{o}" from {p}.', 'Remove "{o}" from {p}.', 'In {p}, delete the line "{o}".'),
    "held": ('The line "{o}" of {p} must go.', 'Please take "{o}" out of {p}.'),
}
ADD: Templates = {
    "train": ('Add the line "{v}" after "{o}" in {p}.', 'In {p}, insert "{v}" after the line "{o}".'),
    "held": ('Please put "{v}" right below "{o}" in {p}.', 'After "{o}", {p} needs the line "{v}".'),
}
NEW_LINES: Mapping[Split, tuple[str, ...]] = {
    "train": ("{n} sees a {a}.", "{n} sells the {f}.", "The {a} likes the {f}."),
    "held": ("{n} drew the {a}.", "The {f} is for {n}."),
}
DONE = "I have changed {p}."


def _make(rng: random.Random, split: Split) -> Example:
    made = tree(rng, split)
    kind = rng.choice(("set", "replace", "delete", "add"))
    path = made.settings if kind == "set" else rng.choice(made.notes)
    lines = made.files[path].splitlines()
    place = rng.randrange(len(lines))
    old, new = lines[place], _new_line(rng, split)
    templates = {"set": SET, "replace": REPLACE, "delete": DELETE, "add": ADD}[kind]
    template, number = pick(rng, templates, split, varied=False)
    key = old.split(" = ")[0]
    value = str(rng.randint(1_000, 9_999))
    new = f"{key} = {value}" if kind == "set" else new
    question = template.format(p=path, o=old, k=key, v=value if kind == "set" else new)
    body = {"delete": [f"-{old}"], "add": [f" {old}", f"+{new}"]}.get(kind, [f"-{old}", f"+{new}"])
    patch = "\n".join(["*** Begin Patch", f"*** Update File: {path}", "@@", *body, "*** End Patch"])
    changed = {"delete": [], "add": [old, new]}.get(kind, [new])
    wanted = dict(made.files)
    wanted[path] = "".join(f"{line}\n" for line in [*lines[:place], *changed, *lines[place + 1 :]])

    recorder = ToolRecorder(folder_session(made.files))
    recorder.call("open_file", path=path)
    recorder.call("apply_patch", patch=patch)
    reply = [*recorder.messages, assistant(DONE.format(p=path))]
    before = [declared(opening(rng), repo_browser_namespace())]
    thinking = thoughts(
        "", "Open, then patch.", f'I open {path} first. Then I patch it: the line is "{old}", to {kind}.'
    )
    return example(rng, split, f"patch/{kind}/{number}", question, [wanted, made.files], thinking, reply, before)


def _new_line(rng: random.Random, split: Split) -> str:
    words = {"n": some(rng, NAMES, split), "a": some(rng, ANIMALS, split), "f": some(rng, FRUIT, split)}
    return rng.choice(NEW_LINES[split]).format(**words)


def _grade(asked: Example, turn: Sequence[Message]) -> Grade:
    """Graded: the turn's patches make the wanted files, and there is a final answer. A patch that fails changes nothing."""
    wanted, files = asked.answer
    now = {path: text.encode() for path, text in files.items()}
    for call in calls_of(turn):
        if call.recipient == "repo_browser.apply_patch":
            now = _patched(now, call.text)
    if now != {path: text.encode() for path, text in wanted.items()}:
        return Grade(0.0, "the files are not as they should be")
    return Grade(1.0, "right") if final_text(turn) else Grade(0.0, "no final answer")


def _patched(files: dict[str, bytes], text: str) -> dict[str, bytes]:
    try:
        changes = plan(parse_patch(patch_in(text)), files).changes
    except PatchError:
        return files
    changed: dict[str, bytes | None] = {**files, **{change.path: change.after for change in changes}}
    return {path: data for path, data in changed.items() if data is not None}


def _tools(asked: Example) -> tuple[Tool, ...]:
    return session_tools(folder_session(asked.answer[1]))


TASKS = (Task("patch", _make, _grade, _tools, max_turns=8),)
