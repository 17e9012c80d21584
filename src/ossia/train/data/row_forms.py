"""The forms of chat data (OpenAI, ShareGPT, Alpaca and others), converted to messages with tools.

Input: a row as JSON. Output: a `ChatRow`, or a ValueError that names the columns found and the known forms.
`chat_rows` reads the messages.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

KNOWN = (
    "messages (OpenAI)",
    "prompt and completion",
    "conversations of from and value (ShareGPT)",
    "instruction and output (Alpaca)",
    "question and answer (also input and output, query and response, problem and solution)",
    "developer, user, analysis and final",
)
SHARED = (
    "tools",
    "functions",
    "reasoning_effort",
    "response_format",
    "current_date",
    "parallel_tool_calls",
    "system",
    "system_prompt",
)
QUESTIONS, ANSWERS = ("question", "query", "prompt", "input", "problem"), ("answer", "response", "output", "solution")
THOUGHTS = ("reasoning_content", "reasoning", "thinking", "analysis")
REJECTED = ("rejected", "rejected_response", "rejected_messages", "non_preferred_output")  # of preference pairs
SPEAKERS = {
    **dict.fromkeys(("human", "user"), "user"),
    **dict.fromkeys(("gpt", "assistant", "model", "bot", "chatgpt", "ai"), "assistant"),
    **dict.fromkeys(("tool", "observation", "function_response", "tool_response", "ipython"), "tool"),
    **dict.fromkeys(("function_call", "tool_call"), "function_call"),
    "system": "system",
    "developer": "developer",
}


@dataclass(frozen=True, slots=True)
class ChatRow:
    """A row as chat messages. tools and response_format may still be JSON strings."""

    messages: list[Any]
    tools: Any = None
    reasoning_effort: Any = None
    response_format: Any = None
    current_date: str | None = None


def as_chat(row: Any, unread: Counter[str]) -> ChatRow:
    """The row's messages and settings, by the form of its columns. unread: counts ignored columns. Raises ValueError."""
    if isinstance(row, list):
        row = {"messages": row}
    if not isinstance(row, Mapping):
        raise ValueError("a row must be a JSON object")
    _refuse_other_kinds(row)
    columns, messages = _form(row)
    for key, value in row.items():
        if key not in columns and key not in SHARED and value is not None:
            unread[f"column {key!r}"] += 1
    system = row.get("system") or row.get("system_prompt")
    if isinstance(system, str) and system and not (messages and _role(messages[0]) in ("system", "developer")):
        messages = [{"role": "system", "content": system}, *messages]
    day = row.get("current_date")
    return ChatRow(
        messages,
        row.get("tools") or row.get("functions"),
        row.get("reasoning_effort"),
        row.get("response_format"),
        day if day is None else str(day),
    )


def _refuse_other_kinds(row: Mapping[str, Any]) -> None:
    """Raises ValueError for data of preference training."""
    if rejected := next((key for key in REJECTED if _has(row, key)), None):
        raise ValueError(
            f"a preference pair (it has {rejected!r}): preferences are not trained on; "
            "keep the chosen answer as the last of 'messages'"
        )
    if isinstance(row.get("label"), bool):
        raise ValueError(
            "an answer with a label: preferences are not trained on; keep the good answers, without 'label'"
        )


def _form(row: Mapping[str, Any]) -> tuple[Sequence[str], list[Any]]:
    """The columns of the row's form, and its messages."""
    for column in ("messages", "conversations", "conversation"):
        if isinstance(turns := json_value(row.get(column), column), list):
            own = bool(turns) and isinstance(turns[0], Mapping) and "from" in turns[0]
            return (column,), [_shared(turn, f"{column}[{n}]") for n, turn in enumerate(turns)] if own else turns
    if _has(row, "prompt") and (answer := _first(row, ("completion", *ANSWERS))):
        return ("prompt", answer, *THOUGHTS), _prompt_completion(row, answer)
    if _has(row, "instruction") and (answer := _first(row, ANSWERS)):
        return ("instruction", "input", "context", answer, "history", *THOUGHTS), _instructed(
            row, "instruction", answer
        )
    if _has(row, "user") and _has(row, "final"):
        return ("developer", "user", "analysis", "final"), _by_channel(row)
    if (asked := _first(row, QUESTIONS)) and (answer := _first(row, ANSWERS)):
        return (asked, "context", answer, "history", *THOUGHTS), _instructed(row, asked, answer)
    found = ", ".join(repr(key) for key in list(row)[:10]) or "none"
    hint = '; for rows of plain text, use text = "FILE" in place of jsonl' if _has(row, "text") else ""
    raise ValueError(f"its columns ({found}) are of no known form: known are {'; '.join(KNOWN)}{hint}")


def _has(row: Mapping[str, Any], key: str) -> bool:
    return row.get(key) is not None


def _first(row: Mapping[str, Any], keys: Sequence[str]) -> str | None:
    return next((key for key in keys if _has(row, key)), None)


def _role(message: Any) -> Any:
    return message.get("role") if isinstance(message, Mapping) else None


def _shared(turn: Any, at: str) -> dict[str, Any]:
    """A ShareGPT turn as a chat message. The value of a function_call is JSON: name and arguments, or a list of such."""
    speaker = turn.get("from") if isinstance(turn, Mapping) else None
    value = turn.get("value", turn.get("content")) if isinstance(turn, Mapping) else None
    role = SPEAKERS.get(str(speaker).lower())
    if role is None:
        raise ValueError(f"{at}.from is {speaker!r}: known are {', '.join(SPEAKERS)}")
    rest = {key: each for key, each in turn.items() if key not in ("from", "value", "content")}
    if role != "function_call":
        return {**rest, "role": role, "content": value}
    calls = json_value(value, f"{at}.value")
    listed = calls if isinstance(calls, list) else [calls]
    if not listed or not all(isinstance(call, Mapping) and "name" in call for call in listed):
        raise ValueError(f"{at}.value must be JSON with name and arguments")
    made = [{"function": {"name": call["name"], "arguments": call.get("arguments")}} for call in listed]
    return {**rest, "role": "assistant", "content": None, "tool_calls": made}


def _prompt_completion(row: Mapping[str, Any], answer: str) -> list[Any]:
    """Prompt and completion: strings or lists of messages. Only the completion is a target."""
    prompt, completion = row["prompt"], row[answer]
    asked = prompt if isinstance(prompt, list) else [{"role": "user", "content": prompt}]
    given = completion if isinstance(completion, list) else [_answer(row, answer)]
    return [*({**each, "weight": 0} if _role(each) == "assistant" else each for each in asked), *given]


def _instructed(row: Mapping[str, Any], question: str, answer: str) -> list[Any]:
    """A question, followed by its input or context, and the answer."""
    earlier: list[Any] = []
    for number, pair in enumerate(row.get("history") or []):
        if not isinstance(pair, Sequence) or len(pair) != 2:
            raise ValueError(f"history[{number}] is not a pair of question and answer")
        earlier += [{"role": "user", "content": pair[0]}, {"role": "assistant", "content": pair[1]}]
    asked = row[question]
    for key in ("input", "context"):
        if row.get(key) and key != question:
            asked = f"{asked}\n{row[key]}"
    return [*earlier, {"role": "user", "content": asked}, _answer(row, answer)]


def _answer(row: Mapping[str, Any], answer: str) -> dict[str, Any]:
    """The answer of one column, with the thinking of another."""
    thought = _first(row, THOUGHTS)
    return {"role": "assistant", "content": row[answer], "thinking": row[thought] if thought else None}


def _by_channel(row: Mapping[str, Any]) -> list[Any]:
    """One exchange in the columns developer, user, analysis and final."""
    opening = [{"role": "developer", "content": row["developer"]}] if row.get("developer") else []
    answer = {"role": "assistant", "content": row["final"], "thinking": row.get("analysis")}
    return [*opening, {"role": "user", "content": row["user"]}, answer]


def json_value(given: Any, at: str) -> Any:
    """Decode a value that some data sets store as a JSON string; "" is None. Raises ValueError."""
    if not isinstance(given, str):
        return given
    if not given.strip():
        return None
    try:
        return msgspec.json.decode(given)
    except msgspec.DecodeError as error:
        raise ValueError(f"{at} is a string, but not JSON: {error}") from error
