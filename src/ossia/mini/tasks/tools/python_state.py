"""Python with state: a variable of one cell is used in a later cell.

In: a seeded random source and a split. Out: examples. The cells are a small subset of Python, run without Python.
"""

import ast
import random
from collections.abc import Sequence

from ossia.harmony.messages import Message, ToolNamespace, ToolSpec, assistant, tool
from ossia.mini.parts.build import Templates, example, opening, pick, thoughts
from ossia.mini.parts.expression import Cells
from ossia.mini.parts.grades import last_number
from ossia.mini.tasks.tools.sessions import declared
from ossia.task import Example, Grade, Split, Task, calls_of
from ossia.tools.functions import Tool, ToolOutput

DESCRIPTIONS: Templates = {
    "train": (
        "Run Python code here. Variables stay between calls.",
        "A Python session: what one call defines, the next one can use.",
        "Stateful Python. Print what you want to see.",
    ),
    "held": ("Python cells that share their variables.", "An interpreter that remembers variables from call to call."),
}
QUESTIONS: Templates = {
    "train": (
        "Store {first} as {x}. Then compute {second} in another cell.",
        "First set {x} to {first}. In a second step, what is {second}?",
        "Let {x} be {first}. Compute it first, then compute {second}.",
        "Use two cells: {x} is {first}; then {second}?",
    ),
    "held": (
        "Please define {x} as {first} in one cell and evaluate {second} in the next.",
        "With {x} = {first} computed beforehand, how much is {second}?",
    ),
}
NAMES: Templates = {"train": ("x", "a", "total", "result", "value", "big"), "held": ("y", "n", "number")}
NOTHING = "[WARN] No output available. Use print() to output anything to stdout to receive the output"


def _drawn(rng: random.Random, name: str) -> tuple[str, str]:
    """The expressions of the two cells."""
    a, b, c = (rng.randint(1_000, 99_999) for _ in range(3))
    numbers = [rng.randint(10, 999) for _ in range(rng.randint(3, 5))]
    first = rng.choice(
        (f"{a} * {b}", f"{rng.randint(3, 30)} ** {rng.randint(4, 9)}", f"sum({numbers})", f"max({numbers}) * {a}")
    )
    small = rng.randint(11, 999)
    return first, rng.choice(
        (f"{name} + {c}", f"{name} * {small}", f"{name} % {small}", f"{name} // {small}", f"{name} - {a}")
    )


def _make(rng: random.Random, split: Split) -> Example:
    name = rng.choice(NAMES[split])
    first, second = _drawn(rng, name)
    template, number = pick(rng, QUESTIONS, split, varied=False)
    described, _ = pick(rng, DESCRIPTIONS, split, varied=False)
    cells = Cells()
    reply: list[Message] = []
    for code in (f"{name} = {first}", f"print({second})"):
        reply += [assistant(code, "analysis", "python", "code"), tool("python", _output(cells, code).text, "analysis")]
    result = int(reply[-1].text)
    before = [declared(opening(rng), ToolNamespace("python", described))]
    high = f"Two cells. The first sets {name} to {first}. The second prints {second}, with the {name} of the first."
    thinking = thoughts("", f"First {name}, then the rest.", high)
    question = template.format(first=first, second=second, x=name)
    return example(
        rng,
        split,
        f"python_state/{number}",
        question,
        result,
        thinking,
        [*reply, assistant(f"The answer is {result}.")],
        before,
    )


def _grade(asked: Example, turn: Sequence[Message]) -> Grade:
    """Graded: the answer, and that a later cell reads a variable which an earlier one sets."""
    known: set[str] = set()
    carried = False
    for call in calls_of(turn):
        if call.recipient == "python":
            read, written = _names(call.text)
            carried = carried or bool(read & known)
            known |= written
    if not carried:
        return Grade(0.0, "no variable was carried from one cell to another")
    return last_number(asked, turn)


def _names(code: str) -> tuple[set[str], set[str]]:
    """The variables that a cell reads, and those that it sets."""
    try:
        nodes = list(ast.walk(ast.parse(code.strip())))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return set(), set()
    names = [node for node in nodes if isinstance(node, ast.Name)]
    written = {node.id for node in names if isinstance(node.ctx, ast.Store)}
    return {node.id for node in names if isinstance(node.ctx, ast.Load)}, written


def _output(cells: Cells, code: str) -> ToolOutput:
    try:
        return ToolOutput(cells.run(code) or NOTHING)
    except ValueError as error:
        return ToolOutput(f"[ERROR] {error}", failed=True)


def _tools(_: Example) -> tuple[Tool, ...]:
    cells = Cells()
    return (Tool(ToolSpec("python", ""), lambda code: _output(cells, code), namespace=None),)


TASKS = (Task("python_state", _make, _grade, _tools, max_turns=8),)
