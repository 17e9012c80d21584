"""`python -m ossia.harmony check FILE.jsonl`: run a file of conformance vectors and print each difference.

In: render or parse vectors made by OpenAI's harmony library. Out: differences, `N passed, M failed`, status 1 on failure.
It does not know where the vectors came from.
"""

import argparse
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ossia.harmony.json_form import conversation_from_json, role_from_json, message_from_json, message_to_json
from ossia.harmony.parse import Delta, End, Event, Parser
from ossia.harmony.render import render, render_message, render_training
from ossia.tokenizer import Tokenizer
from ossia.tokenizer_json import o200k_harmony

Vector = dict[str, Any]
WORD = re.compile(r"\w+")
# Control tokens with the part of a header that each one carries: no words of the model's own.
FORM = re.compile(
    r"<\|channel\|>\s*(analysis|commentary|final)?"
    r"|(^|<\|(start|end|call|return)\|>)\s*((assistant|user|system|developer|tool)(?![\w:.]))?"
    r"|<\|\w+\|>|\bto="
)


def check_render(tokenizer: Tokenizer, vector: Vector) -> str | None:
    """None, or how the rendering differs. Where the reference refuses a conversation, so must we."""
    try:
        got = _rendered(tokenizer, vector)
    except (ValueError, KeyError) as error:
        return None if "error" in vector else f"refused: {error}"
    if "error" in vector:
        return f"accepted; the reference says {vector['error']}"
    if got == vector["rendered_tokens"]:
        return None
    ours, theirs = tokenizer.decode(got), vector["rendered_text"]
    at = next((i for i, pair in enumerate(zip(ours, theirs, strict=False)) if pair[0] != pair[1]), 0)
    return f"at character {at}: ours {ours[at - 20 : at + 60]!r}, reference {theirs[at - 20 : at + 60]!r}"


def _rendered(tokenizer: Tokenizer, vector: Vector) -> list[int]:
    options = vector["options"] or {}
    if vector["mode"] == "message":
        functions = options.get("conversation_has_function_tools", False)
        return render_message(tokenizer, message_from_json(vector["message"]), functions).tokens
    messages = conversation_from_json(vector["conversation"])
    role = None if vector["next_role"] is None else role_from_json(vector["next_role"])
    drop = options.get("auto_drop_analysis", True)
    if vector["mode"] == "training":
        return render_training(tokenizer, messages, drop).tokens
    return render(tokenizer, messages, role, drop)


def check_parse(tokenizer: Tokenizer, vector: Vector) -> str | None:
    """None, or how the messages differ. Where the strict reference raises, every word must be there, flagged."""
    parser = Parser(tokenizer, vector["role"])
    steps = [parser.feed(token) for token in vector["tokens"]]
    events = [event for step in steps for event in step] + parser.finish()
    messages = [event.message for event in events if isinstance(event, End)]
    ours = [message_to_json(message) for message in messages]
    if "error" in vector["strict"]:
        if not parser.flaws:
            return f"no flaw; the reference says {vector['strict']['error']}"
        lost = _lost_words(tokenizer.decode(vector["tokens"]), ours)
        return f"lost {lost} in {ours}" if lost else None
    theirs = [_as_chosen(message) for message in vector["strict"]["messages"]]
    if ours != theirs:
        return f"ours {ours}, reference {theirs}"
    return _stream_difference(steps, vector["stream"]) if vector.get("stream") else None


def _stream_difference(steps: list[list[Event]], stream: Vector) -> str | None:
    """None, or the first id after which the text given differs; where bytes are invalid, we may give text sooner."""
    for number, (events, reference) in enumerate(zip(steps, stream.get("steps", []), strict=False)):
        ours = "".join(event.text for event in events if isinstance(event, Delta))
        theirs = reference[5] if reference[0] == "Content" and reference[5] else ours
        if "\ufffd" in ours + theirs or "<|reserved_" in theirs:
            return None
        if ours != theirs:
            return f"token {number}: ours {ours!r}, reference {theirs!r}"
    return None


NAMED = {"<|reserved_200018|>": "<|endofprompt|>", "<|reserved_201088|>": "\ufffd"}


def _as_chosen(message: dict[str, Any]) -> dict[str, Any]:
    """The reference's message with the differences that docs/harmony.md chooses."""
    chosen = dict(message)
    for theirs, ours in NAMED.items():
        chosen = {key: value.replace(theirs, ours) for key, value in chosen.items()}
    if "content_type" not in chosen and chosen.get("recipient", "").startswith("<|constrain|>"):
        chosen["content_type"] = chosen.pop("recipient")
    return chosen


def _lost_words(text: str, messages: list[dict[str, Any]]) -> list[str]:
    """Words of a completion that no message holds, in any of its fields."""
    kept = " ".join(str(value) for message in messages for value in message.values())
    return [word for word in WORD.findall(FORM.sub(" ", text)) if word not in kept]


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m ossia.harmony", description=__doc__)
    commands = parser.add_subparsers(required=True)
    check = commands.add_parser("check", help="run a file of conformance vectors")
    check.add_argument("file", type=Path)
    check.add_argument("--tokenizer", type=Path, help="a tokenizer.json; o200k_harmony unless given")
    given = parser.parse_args(arguments)
    tokenizer = Tokenizer.from_file(given.tokenizer) if given.tokenizer else Tokenizer(o200k_harmony())
    passed = failed = 0
    for number, line in enumerate(given.file.read_bytes().splitlines(), 1):
        vector = json.loads(line)
        run: Callable[[Tokenizer, Vector], str | None] = check_render if "mode" in vector else check_parse
        if difference := run(tokenizer, vector):
            failed += 1
            print(f"{vector.get('id', f'line {number}')}: {difference}")
        else:
            passed += 1
    print(f"{passed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
