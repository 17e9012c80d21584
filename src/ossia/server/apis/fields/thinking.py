"""The amount of thinking for an answer, and whether the client sees it, from any server's fields.

In: the fields of a request. Out: effort, budget, visibility, and warnings about fields without effect.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from ossia.harmony.messages import Effort
from ossia.harmony.openai_chat import effort_of
from ossia.server.apis.fields.extensions import ThinkingExtensions
from ossia.server.errors import bad

SHOWN = ("", "parsed", "auto", "deepseek", "deepseek-legacy")  # values of reasoning_format
LOWEST = "gpt-oss always thinks, so its least effort is used: low"


class Thinking(NamedTuple):
    """effort: None takes it from the system text. budget: in tokens. hidden: the answer has no reasoning."""

    effort: Effort | None
    budget: int | None
    hidden: bool


def thinking_of(
    request: ThinkingExtensions,
    warnings: list[str],
    *,
    efforts: Mapping[str, str | None],
    budgets: Mapping[str, int | None],
    enabled: bool | None = None,
    exclude: bool | None = None,
) -> Thinking:
    """efforts, budgets: the API's own fields by name; the first that is set counts. enabled, exclude: of its `reasoning`.

    Raises ApiError (400) or InputError that names an invalid field.
    """
    kwargs = request.chat_template_kwargs or {}
    think = request.think if isinstance(request.think, str) else None
    words = {**efforts, "chat_template_kwargs.reasoning_effort": kwargs.get("reasoning_effort"), "think": think}
    effort: Effort | None = None
    for name, word in words.items():
        if effort := effort_of(_word(word, name), name):
            if str(word).strip().lower() == "none":
                warnings.append(f"{name} none: {LOWEST}")
            break
    if off := _disabled(request, kwargs, enabled):
        if effort is None:
            effort = "low"
            warnings.append(f"{off}: {LOWEST}")
        else:
            warnings.append(f"{off}: without effect beside an effort")
    return Thinking(effort, _budget(request, kwargs, budgets), _hidden(request, exclude, warnings))


def _word(value: Any, name: str) -> str | None:
    if value is not None and not isinstance(value, str):
        raise bad(name, f"{name} must be a string", "invalid_type")
    return value


def _disabled(request: ThinkingExtensions, kwargs: Mapping[str, Any], enabled: bool | None) -> str | None:
    """The field that switches thinking off; None if none does."""
    switches = {
        "think": request.think,
        "enable_thinking": request.enable_thinking,
        "reasoning.enabled": enabled,
        "thinking": _type(request.thinking) != "disabled",
        "chat_template_kwargs.enable_thinking": kwargs.get("enable_thinking"),
        "chat_template_kwargs.thinking": kwargs.get("thinking"),
    }
    return next((name for name, value in switches.items() if value is False), None)


def _type(thinking: bool | dict[str, Any] | None) -> object:
    if isinstance(thinking, dict):
        return thinking.get("type")
    return "disabled" if thinking is False else None


def _budget(request: ThinkingExtensions, kwargs: Mapping[str, Any], budgets: Mapping[str, int | None]) -> int | None:
    given: dict[str, Any] = {
        **budgets,
        "thinking_budget": request.thinking_budget,
        "thinking_token_budget": request.thinking_token_budget,
        "thinking.budget_tokens": request.thinking.get("budget_tokens") if isinstance(request.thinking, dict) else None,
        "chat_template_kwargs.thinking_budget": kwargs.get("thinking_budget"),
    }
    for name, value in given.items():
        if value is None or (value == -1 and name not in budgets):  # Qwen's value for no limit
            continue
        if type(value) is not int:
            raise bad(name, f"{name} must be a whole number", "invalid_type")
        if value < 0:
            raise bad(name, f"{name} is negative")
        return value
    return None


def _hidden(request: ThinkingExtensions, exclude: bool | None, warnings: list[str]) -> bool:
    form = request.reasoning_format
    if request.separate_reasoning is False:
        warnings.append("separate_reasoning: the reasoning is left out, not put into the content")
    if form is not None and form not in (*SHOWN, "hidden"):
        warnings.append(f"reasoning_format {form[:40]!r} is not supported: the reasoning is a field of its own")
    wanted = (
        exclude is True,
        request.include_reasoning is False,
        request.separate_reasoning is False,
        form == "hidden",
    )
    return any(wanted)


KNOWN_KWARGS = ("reasoning_effort", "enable_thinking", "thinking", "thinking_budget", "model_identity")


def template_warnings(request: ThinkingExtensions) -> list[str]:
    """A warning that names template arguments without effect."""
    given = request.chat_template_kwargs or {}
    named = [
        name for name, value in given.items() if name not in KNOWN_KWARGS and value not in (None, False, "", [], {})
    ]
    if not named:
        return []
    return [f"chat_template_kwargs: not supported, so without effect: {', '.join(name[:40] for name in named[:8])}"]
