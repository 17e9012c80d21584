"""Finding things in files with repo_browser: the file of a word, a setting's value, a line by its number.

In: a seeded random source and a split. Out: examples. The expert's calls are run when an example is made.
"""

import random
import re
from collections.abc import Sequence

from ossia.harmony.messages import Message, assistant
from ossia.mini.parts.build import Templates, example, opening, pick, thoughts
from ossia.mini.parts.grades import verdict
from ossia.mini.tasks.tools.sessions import ToolRecorder, declared, folder_session, session_tools
from ossia.mini.tasks.tools.trees import tree
from ossia.task import Example, Grade, Split, Task, calls_of, final_text
from ossia.tools.functions import Tool
from ossia.tools.repo_browser.declaration import repo_browser_namespace

FILE: Templates = {
    "train": ('Which file contains "{w}"?', 'In which file is the line "{w}"?', 'Find the file with the text "{w}".'),
    "held": ('Where in the repository is "{w}"?', 'Please name the file that has "{w}".'),
}
VALUE: Templates = {
    "train": ("What is the value of {w} in the settings?", "Which value does {w} have?", "Look up the setting {w}."),
    "held": ("To what is {w} set?", "Please tell me the configured {w}."),
}
LINE: Templates = {
    "train": ("What is line {k} of {w}?", "Show me line {k} of {w}.", "Read line number {k} in {w}."),
    "held": ("What stands in {w} at line {k}?", "Please quote line {k} of the file {w}."),
}


def _make(rng: random.Random, split: Split) -> Example:
    made = tree(rng, split)
    recorder = ToolRecorder(folder_session(made.files))
    kind = rng.choice(("file", "value", "line"))
    match kind:
        case "file":
            answer = rng.choice(made.notes)
            line = rng.choice(made.files[answer].splitlines())
            template, number = pick(rng, FILE, split, varied=False)
            question = template.format(w=line)
            recorder.call("search", path="", query=line)
            thought = f'I search for "{line}". The result begins with the path of the file.'
        case "value":
            key = rng.choice(list(made.values))
            answer = made.values[key]
            template, number = pick(rng, VALUE, split, varied=False)
            question = template.format(w=key)
            recorder.call("search", path="", query=f"{key} =")
            thought = f'I search for "{key} =". The value comes after the equals sign.'
        case _:
            path = rng.choice(made.notes)
            lines = made.files[path].splitlines()
            place = rng.randint(1, len(lines))
            answer = lines[place - 1]
            template, number = pick(rng, LINE, split, varied=False)
            question = template.format(w=path, k=place)
            recorder.call("open_file", path=path, line_start=place, line_end=place)
            thought = f"I open {path} and show line {place} only."
    reply = [*recorder.messages, assistant(answer)]
    before = [declared(opening(rng), repo_browser_namespace())]
    thinking = thoughts("", "Use repo_browser.", f"The answer is in the files, so I use repo_browser. {thought}")
    return example(rng, split, f"shell_find/{kind}/{number}", question, [answer, made.files], thinking, reply, before)


def _grade(asked: Example, turn: Sequence[Message]) -> Grade:
    """Graded: repo_browser was called, and the answer is the end of the text."""
    if not any((call.recipient or "").startswith("repo_browser.") for call in calls_of(turn)):
        return Grade(0.0, "no call of repo_browser")
    text = final_text(turn)
    if text is None:
        return Grade(0.0, "no final answer")
    answer = _plain(asked.answer[0])
    said = _plain(text)
    return verdict(said[-len(answer) :] if re.search(rf"(?<![\w/.]){re.escape(answer)}\Z", said) else said, answer)


def _plain(text: str) -> str:
    return text.strip().rstrip(".").strip("\"'`").rstrip(".").lower()


def _tools(asked: Example) -> tuple[Tool, ...]:
    return session_tools(folder_session(asked.answer[1]))


TASKS = (Task("shell_find", _make, _grade, _tools, max_turns=8),)
