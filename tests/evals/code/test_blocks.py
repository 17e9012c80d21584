"""Code is found in an answer as people write it: fenced, cut off, behind prose, or alone."""

import pytest

from ossia.evals.code.blocks import block_with, code_blocks, defines
from ossia.evals.tasks.programs import humaneval_program

PROMPT = 'import math\n\ndef double(x):\n    """ Twice x. """\n'


@pytest.mark.parametrize(
    ("text", "blocks"),
    [
        ("```python\na = 1\n```", [("python", "a = 1")]),
        ("```Py title=x\na\n```\n~~~\nb\n~~~", [("py", "a"), ("", "b")]),
        ("````\n```\nin\n```\n````", [("", "```\nin\n```")]),
        ("text\n```python\ncut off", [("python", "cut off")]),
        ("~~~\n```\n~~~", [("", "```")]),
        ("no code, only `inline`", []),
    ],
)
def test_fences(text: str, blocks: list[tuple[str, str]]):
    assert [tuple(block) for block in code_blocks(text)] == blocks


def test_the_block_that_defines_the_function_is_taken():
    text = "```sh\npip\n```\n```python\ndef f(x): return x\n```\nso\n```python\nf(3)\n```"
    assert block_with(text, "f") == "def f(x): return x"
    assert block_with(text, "g") == "pip"
    assert block_with(text, "g", last=True) == "f(3)"
    assert block_with("I cannot do this.", "f") is None
    assert block_with("", "f") is None
    assert block_with("def f(x):\n    return x", "f") == "def f(x):\n    return x"
    assert not defines("    def f(x): pass", "f")


@pytest.mark.parametrize(
    "answer",
    [
        "```python\ndef double(x):\n    return 2 * x\n```",
        "```python\n    return 2 * x\n```",
        "```python\nreturn 2 * x\n```",
        "    return 2 * x",
        f"Here it is:\n```python\n{PROMPT}    return 2 * x\n```\nand use it so:\n```python\nprint(double(2))\n```",
    ],
)
def test_a_whole_function_or_its_body_makes_a_program(answer: str):
    program = humaneval_program(answer, PROMPT, "double")
    names: dict[str, object] = {}
    exec(str(program), names)
    assert names["double"](4) == 8  # type: ignore[operator]
    assert "math" in names
