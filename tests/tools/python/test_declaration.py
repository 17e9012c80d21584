"""The declaration is the one that the model was trained with, and a call's text becomes code."""

import openai_harmony
import pytest

from ossia.tools.python.declaration import code_of, python_namespace


def test_the_description_is_that_of_harmony():
    theirs = openai_harmony.ToolNamespaceConfig.python()
    assert python_namespace().name == theirs.name
    assert python_namespace().description == theirs.description
    assert python_namespace().tools == ()


def test_another_time_limit_is_declared():
    assert "time out after 30.0 seconds" in (python_namespace(30).description or "")


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("print(1)\n", "print(1)\n"),
        ('{"code": "x = 1"}', "x = 1"),
        ('{"code": "```python\\nx\\n```"}', "x"),
        ("```python\nx = 1\ny\n```", "x = 1\ny"),
        ("```\nx\n```\n", "x"),
        ('{"code": 1}', '{"code": 1}'),
        ('{"code": "x", "other": 1}', '{"code": "x", "other": 1}'),
        ("{1: 2}", "{1: 2}"),
        ("```python\na\n```\n```python\nb\n```", "```python\na\n```\n```python\nb\n```"),
        ("", ""),
    ],
)
def test_the_text_of_a_call_becomes_code(text: str, code: str):
    assert code_of(text) == code
