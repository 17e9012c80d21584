"""Responses and their streams as a client reads them: checked by openai's own types, and events added up."""

import json
from copy import deepcopy
from typing import Any

from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

EVENT: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)
PARAMETERS = {"type": "object", "properties": {"a": {"type": "integer"}}}
ADD = {"type": "function", "name": "add", "description": None, "parameters": PARAMETERS, "strict": True}
SEALED = ["reasoning.encrypted_content"]
LAST = ("response.completed", "response.incomplete", "response.failed")


def checked(response: dict[str, Any]) -> dict[str, Any]:
    Response.model_validate(response)
    return response


def events_of(text: str) -> list[dict[str, Any]]:
    frames = [frame.split("\n") for frame in text.split("\n\n") if frame and not frame.startswith(":")]
    events = [json.loads(data.removeprefix("data: ")) for _, data in frames]
    assert [name.removeprefix("event: ") for name, _ in frames] == [event["type"] for event in events]
    for event in events:
        assert EVENT.validate_python(event).type == event["type"]
        assert EVENT.validate_python(event).to_dict(exclude_unset=False)["type"] == event["type"]
    first = events[0]["sequence_number"]
    assert [event["sequence_number"] for event in events] == list(range(first, first + len(events)))
    return events


def fold(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The output that the events add up to: every delta added to its part, every part to its item.

    It trusts nothing: an event about an item that is not open, a wrong index, a second `done` fails here.
    """
    output: list[dict[str, Any]] = []
    open_parts: set[tuple[str, int]] = set()
    for event in deepcopy(events):
        kind = event["type"].removeprefix("response.")
        if event["type"] in LAST or kind in ("created", "queued", "in_progress"):
            continue
        index = event["output_index"]
        if kind == "output_item.added":
            assert index == len(output), "items are opened in order"
            assert all(item.get("status") != "in_progress" for item in output), "one item at a time"
            assert event["item"].get("status", "in_progress") == "in_progress"
            output.append(event["item"])
            continue
        assert index == len(output) - 1
        item = output[index]
        if kind == "output_item.done":
            done = event["item"]
            assert not open_parts
            # known at the end only
            late = ("encrypted_content", "action", "results", "outputs", "tools", "error", "output", "status")
            assert item | {k: done[k] for k in late if k in done} == done
            output[index] = done
            continue
        assert event.get("item_id", item["id"]) == item["id"]  # shell commands name their place only
        assert item.get("status", "in_progress") == "in_progress"
        change(item, kind, event, open_parts)
    return output


def change(item: dict[str, Any], kind: str, event: dict[str, Any], open_parts: set[tuple[str, int]]) -> None:
    match kind.split("."):
        case ["content_part" | "reasoning_summary_part" as part, state]:
            place = ("summary", event["summary_index"]) if "summary" in part else ("content", event["content_index"])
            if state == "added":
                assert len(item[place[0]]) == place[1]
                item[place[0]].append(event["part"])
                open_parts.add(place)
            else:
                assert item[place[0]][place[1]] == event["part"]
                open_parts.remove(place)
        case ["output_text", "annotation", "added"]:
            text = item["content"][event["content_index"]]
            assert event["annotation_index"] == len(text["annotations"])
            assert event["annotation"]["end_index"] == len(text["text"]), "it follows its text"
            text["annotations"] = [*text["annotations"], event["annotation"]]
        case ["output_text" | "reasoning_text" | "reasoning_summary_text" as part, state]:
            place = ("summary", event["summary_index"]) if "summary" in part else ("content", event["content_index"])
            assert place in open_parts
            text = item[place[0]][place[1]]
            if state == "delta":
                assert event["delta"]
                text["text"] += event["delta"]
                if "logprobs" in text:
                    text["logprobs"] = text["logprobs"] + event["logprobs"]
            else:
                assert text["text"] == event["text"]
        case ["function_call_arguments" | "custom_tool_call_input" as part, state]:
            key = "arguments" if part.startswith("function") else "input"
            if state == "delta":
                item[key] += event["delta"]
            else:
                assert item[key] == event[key]
        case ["mcp_call_arguments", state]:
            if state == "delta":
                item["arguments"] += event["delta"]
            else:
                assert item["arguments"] == event["arguments"]
        case ["mcp_call" | "mcp_list_tools" as part, state]:
            assert item["type"] == part
        case ["shell_call_command", state]:
            assert item["type"] == "shell_call"
            if state == "added":
                assert event["command_index"] == len(item["action"]["commands"])
                item["action"]["commands"].append(event["command"])
            elif state == "delta":
                item["action"]["commands"][event["command_index"]] += event["delta"]
            else:
                assert item["action"]["commands"][event["command_index"]] == event["command"]
        case ["shell_call_output_content", "delta"]:
            assert item["type"] == "shell_call_output"
        case ["shell_call_output_content", "done"]:
            item["output"] = event["output"]
        case ["web_search_call", state]:
            assert item["type"] == "web_search_call"
        case ["code_interpreter_call", state]:
            assert item["type"] == "code_interpreter_call"
        case ["code_interpreter_call_code", "delta"]:
            item["code"] += event["delta"]
        case ["code_interpreter_call_code", "done"]:
            assert item["code"] == event["code"]
        case _:
            raise AssertionError(f"unknown event {kind}")
