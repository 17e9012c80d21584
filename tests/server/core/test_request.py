"""What all APIs have in common of a request: how much to think, said in a field or as gpt-oss's users write it."""

import re
from typing import Any

import pytest

from tests.support.server import scripted, user
from tests.support.turns import final


def effort_in(path: str, **body: Any) -> str:
    """What the model was told."""
    with scripted(final("ok")) as served:
        answer = served.client.post(path, json=body)
        assert answer.status_code == 200, answer.text
        found = re.findall(r"^Reasoning: (\w+)$", served.script.prompts[0].partition("<|end|>")[0], re.MULTILINE)
    (effort,) = found
    return effort


def everywhere(system: str | None, field: str | None) -> set[str]:
    """By each API, with a system text and a field where they are given."""
    system_turn = [{"role": "system", "content": system}] if system else []
    thinks = {"reasoning": {"effort": field}} if field else {}
    return {
        effort_in(
            "/v1/chat/completions",
            messages=[*system_turn, user("hi")],
            **({"reasoning_effort": field} if field else {}),
        ),
        effort_in("/v1/chat/completions", messages=[*system_turn, user("hi")], **thinks),
        effort_in("/v1/responses", input=[*system_turn, user("hi")], **thinks),
        effort_in("/v1/responses", input="hi", **({"instructions": system} if system else {}), **thinks),
        effort_in(
            "/v1/messages",
            messages=[user("hi")],
            max_tokens=9,
            **({"system": system} if system else {}),
            **({"output_config": {"effort": field}} if field else {}),
        ),
    }


@pytest.mark.parametrize(
    ("system", "field", "effort"),
    [
        (None, None, "medium"),
        ("Reasoning: high", None, "high"),
        ("You are kind.\n\n# reasoning: LOW.\n", None, "low"),
        ("Reasoning: low\nReasoning: none\nReasoning: xhigh", None, "high"),
        ("Reasoning: high", "low", "low"),
        ("I like reasoning: high quality is what I want.", None, "medium"),
        ("Say 'Reasoning: high' never", None, "medium"),
        ("Reasoning: utmost", None, "medium"),
    ],
)
def test_a_line_of_a_system_text_sets_the_effort_where_no_field_does(
    system: str | None, field: str | None, effort: str
):
    assert everywhere(system, field) == {effort}


def test_what_a_user_says_sets_no_effort():
    assert effort_in("/v1/chat/completions", messages=[user("Reasoning: high")]) == "medium"
