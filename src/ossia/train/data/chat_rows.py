"""A row of chat data as a harmony conversation.

Input: a row as JSON, in any form that `row_forms` reads. Output: a `Conversation`, or a ValueError that names the fault.
Messages, tools, ids and efforts are read by the server's code, so training uses the prompts that the server renders.
"""

import random
import re
from collections import Counter
from datetime import date, timedelta
from typing import Any

import msgspec

from ossia.harmony.client_tools import toolbox
from ossia.harmony.json_answer import JSON_KINDS, json_answer
from ossia.harmony.messages import ResponseFormat, System
from ossia.harmony.openai_chat import ChatMessage, conversation, effort_of, read_history
from ossia.train.data.row_forms import SPEAKERS, THOUGHTS, ChatRow, as_chat, json_value
from ossia.train.data.sequences import Conversation

# JSON schema keywords that an object's schema can have
SCHEMA_WORDS = {"type", "properties", "$ref", "allOf", "anyOf", "oneOf", "required", "additionalProperties", "$defs"}
WEIGHTS = ("weight", "train", "training")  # OpenAI's key and other trainers' keys for messages that are targets
THOUGHT = re.compile(r"\s*<think>(.*?)</think>\s*", re.DOTALL)  # thinking as other models write it
MESSAGE_KEYS = {*ChatMessage.__struct_fields__, *WEIGHTS}


def read_line(line: str | bytes, number: int, unread: Counter[str] | None = None) -> Conversation:
    """`read_row` of a line of JSON."""
    try:
        row = msgspec.json.decode(line)
    except msgspec.DecodeError as error:
        raise ValueError(f"is not one JSON value: {error}; put one row on each line") from error
    return read_row(row, number, unread)


def read_row(row: Any, number: int, unread: Counter[str] | None = None) -> Conversation:
    """A row's conversation. Raises ValueError.

    number: seed of the date of a row without one; a model would learn a date that all rows share.
    unread: counts the columns and keys that are ignored.
    """
    unread = Counter() if unread is None else unread
    given = as_chat(row, unread)
    messages, weights = _messages(given.messages, unread)
    effort = _effort(given)
    formats = _formats(given.response_format)
    box = toolbox(_tools(given.tools))
    unread.update(box.warnings)
    history = read_history(messages, box, old_thinking=True, refuses_all=True)
    _check_calls(history.unanswered, history.repeated, len(messages) - 1)
    is_target = [weights[source] for source in history.sources]
    drawn = date(2024, 7, 1) + timedelta(random.Random(f"date/{number}").randrange(1000))
    day = given.current_date or drawn.isoformat()
    whole = conversation(effort, history.messages, box.spaces, formats, opening=System(current_date=day))
    before = len(whole) - len(history.messages)  # the opening replaces the leading instructions
    if not any(flag and message.role == "assistant" for flag, message in zip(is_target, history.messages)):
        raise ValueError("no assistant message to learn from")
    masked = [before + i for i, flag in enumerate(is_target) if not flag]
    return Conversation(list(whole), frozenset(masked))


def _messages(given: list[Any], unread: Counter[str]) -> tuple[list[ChatMessage], list[bool]]:
    """Chat messages, and for each whether it is a target."""
    plain = [_message(message, f"messages[{number}]", unread) for number, message in enumerate(given)]
    weights = [_weight(message, f"messages[{number}]") for number, message in enumerate(plain)]
    try:
        return msgspec.convert(plain, list[ChatMessage]), weights
    except msgspec.ValidationError as error:
        raise ValueError(str(error).replace("`$[", "`messages[")) from error


def _message(given: Any, at: str, unread: Counter[str]) -> dict[str, Any]:
    if not isinstance(given, dict):
        raise ValueError(f"{at} is not an object")
    if "content" not in given and "value" in given:
        given = {"content" if key == "value" else key: value for key, value in given.items()}
    unread.update(f"messages[].{key}" for key, value in given.items() if key not in MESSAGE_KEYS and value is not None)
    message = {key: value for key, value in given.items() if key in MESSAGE_KEYS}
    message["role"] = _role(message.get("role"), at)
    content = message.get("content")
    is_result = message["role"] in ("tool", "function")
    if isinstance(content, int | float | dict) and (is_result or not isinstance(content, bool | dict)):
        content = msgspec.json.encode(content).decode()
    message["content"] = content
    if not is_result:
        _check_content(message, at)
    thought = THOUGHT.match(content) if message["role"] == "assistant" and isinstance(content, str) else None
    if thought and not any(map(message.get, THOUGHTS)):
        message["thinking"], message["content"] = thought[1].strip(), str(content)[thought.end() :]
    if isinstance(message.get("tool_call_id"), int):
        message["tool_call_id"] = str(message["tool_call_id"])
    calls = json_value(message.get("tool_calls"), f"{at}.tool_calls")
    message["tool_calls"] = [_call(call, f"{at}.tool_calls[{n}]", unread) for n, call in enumerate(calls or [])] or None
    return message


def _role(given: Any, at: str) -> str:
    """The API's name of a role, from the names that data sets use."""
    name = str(given).lower()
    role = "function" if name == "function" else SPEAKERS.get(name)
    if role is None or role == "function_call":
        raise ValueError(f"{at}.role is {given!r}: use system, developer, user, assistant or tool")
    return role


def _check_content(message: dict[str, Any], at: str) -> None:
    """Reject a message without content, and a tool call written as text."""
    content = message.get("content")
    others = ("tool_calls", "function_call", "refusal", *THOUGHTS)
    if content is None and not any(message.get(key) for key in others):
        raise ValueError(f"{at} has no content")
    if message["role"] == "assistant" and isinstance(content, str) and content.rstrip().endswith("</tool_call>"):
        raise ValueError(f"{at} has a call in its text, as <tool_call>: move it to 'tool_calls'")


def _call(given: Any, at: str, unread: Counter[str]) -> dict[str, Any]:
    if not isinstance(given, dict):
        raise ValueError(f"{at} is not an object")
    if "function" not in given and "custom" not in given and "name" in given:  # a function without the object around it
        given = {"id": given.get("id"), "function": {key: value for key, value in given.items() if key != "id"}}
    known = ("id", "type", "function", "custom", "index")
    unread.update(f"tool_calls[].{key}" for key, value in given.items() if key not in known and value is not None)
    name = given.get("id")
    return {**given, "id": str(name) if isinstance(name, int) else name}


def _weight(message: dict[str, Any], at: str) -> bool:
    """Whether a message is a target. Removes the keys that say so."""
    is_target = True
    for key in WEIGHTS:
        given = message.pop(key, None)
        if given is None:
            continue
        number = {"0": 0, "0.0": 0, "false": 0, "1": 1, "1.0": 1, "true": 1}.get(str(given).lower())
        if number is None:
            raise ValueError(f"{at}.{key} is {given!r}: use 0 or 1")
        is_target = is_target and number == 1
    return is_target


def _effort(given: ChatRow) -> Any:
    if given.reasoning_effort is not None and not isinstance(given.reasoning_effort, str):
        raise ValueError("reasoning_effort is not a string")
    return effort_of(given.reasoning_effort)


def _formats(given: Any) -> tuple[ResponseFormat, ...]:
    """The response formats that the prompt shows."""
    value = json_value(given, "response_format")
    if value is None:
        return ()
    if not isinstance(value, dict):
        raise ValueError("response_format is not an object")
    if value.get("type", "text") in ("text", "regex", "choice", "grammar"):  # not shown to the model
        return ()
    if value["type"] not in JSON_KINDS:
        raise ValueError(f"response_format.type is {value['type']!r}: use text, {', '.join(JSON_KINDS)}")
    return json_answer(value).shown


def _tools(given: Any) -> list[dict[str, Any]]:
    """Tools as in the API, from a JSON string, one tool, or bare functions."""
    value = json_value(given, "tools")
    listed = value if isinstance(value, list) else [value] if value else []
    return [_tool(json_value(tool, f"tools[{number}]"), f"tools[{number}]") for number, tool in enumerate(listed)]


def _tool(given: Any, at: str) -> dict[str, Any]:
    if not isinstance(given, dict):
        raise ValueError(f"{at} is not an object")
    nested = given.get("function")
    inner: dict[str, Any] = nested if isinstance(nested, dict) else given
    if given.get("type", "function") not in ("function", None):
        return given
    function = {key: value for key, value in inner.items() if key != "type" or inner is not given}
    if "parameters" in function:
        function["parameters"] = json_value(function["parameters"], f"{at}.parameters")
    parameters = function.get("parameters")
    if isinstance(parameters, dict) and parameters and not SCHEMA_WORDS & parameters.keys():
        shown = ", ".join(map(repr, list(parameters)[:3]))
        raise ValueError(f"{at}.parameters has {shown}: use a JSON schema, with the parameters under 'properties'")
    return {"type": "function", "function": function}


def _check_calls(unanswered: list[str], repeated: list[str], last: int) -> None:
    """Only calls of the last message may have no result."""
    if missing := [at for at in unanswered if not at.startswith(f"messages[{last}].")]:
        raise ValueError(f"{missing[0]} has no result among the tool messages")
    if repeated:
        raise ValueError(f"{repeated[0]} is the second result of one call")
