"""`python -m ossia.harmony check FILE.jsonl`: run a file of conformance vectors and print each difference.

In: render or parse vectors made by OpenAI's harmony library. Out: differences, `N passed, M failed`, status 1 on
failure.
"""

import argparse
import json
import re
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import astuple
from pathlib import Path
from typing import Any

from ossia.harmony.json_form import conversation_from_json, message_from_json, message_to_json, role_from_json
from ossia.harmony.parse import Delta, End, Event, Parser, Start
from ossia.harmony.render import render, render_message, render_training
from ossia.tokenizer.tokenizer import Tokenizer, TokenizerError
from ossia.tokenizer.tokenizer_json import o200k_harmony

Vector = dict[str, Any]
WORD = re.compile(r"\w+")
CONTROL = re.compile(r"<\|\w+\|>")
# Control tokens with the header part that follows each: no words of the model.
FORM = re.compile(
    r"<\|channel\|>\s*((analysis|commentary|final)(to=|(?=[^a-z]|$)))?"
    r"|(^|<\|(start|end|call|return)\|>)\s*((assistant|user|system|developer|tool)(?![\w:.]))?"
    r"|<\|\w+\|>|\bto="
)


def check_render(tokenizer: Tokenizer, vector: Vector) -> str | None:
    """None, or how the rendering differs. A conversation that the reference refuses must be refused."""
    try:
        got = _rendered(tokenizer, vector)
    except ValueError as error:
        return None if "error" in vector else f"refused: {error}"
    if "error" in vector:
        return f"accepted; the reference says {vector['error']}"
    if got == vector["rendered_tokens"]:
        return None
    ours, theirs = tokenizer.decode(got), vector["rendered_text"]
    at = next((i for i, pair in enumerate(zip(ours, theirs, strict=False)) if pair[0] != pair[1]), 0)
    near = slice(max(at - 20, 0), at + 60)
    return f"at character {at}: ours {ours[near]!r}, reference {theirs[near]!r}"


def _rendered(tokenizer: Tokenizer, vector: Vector) -> list[int]:
    options = vector["options"] or {}
    if vector["mode"] == "message":
        functions = options.get("conversation_has_function_tools", False)
        return render_message(tokenizer, message_from_json(vector["message"]), functions, simplify=False).tokens
    messages = conversation_from_json(vector["conversation"])
    role = None if vector["next_role"] is None else role_from_json(vector["next_role"])
    drop = options.get("auto_drop_analysis", True)
    if vector["mode"] == "training":
        return render_training(tokenizer, messages, drop, simplify=False).tokens
    return render(tokenizer, messages, role, drop, simplify=False)


def check_parse(tokenizer: Tokenizer, vector: Vector) -> str | None:
    """None, or how the messages differ. If the strict reference raises, every word must be present, with a flaw.

    The lenient reference is no oracle: it drops calls without <|message|>, and it raises too.
    """
    parser = Parser(tokenizer, vector["role"])
    steps = [parser.feed(token) for token in vector["tokens"]]
    events = [event for step in steps for event in step] + parser.finish()
    ours = [message_to_json(event.message) for event in events if isinstance(event, End)]
    if "error" not in vector["strict"]:
        theirs = [_set(_as_chosen(message)) for message in vector["strict"]["messages"]]
        if any(token > tokenizer.size for token in vector["tokens"]):
            ours = _cut(ours, theirs)
        if ours != theirs:
            return f"ours {ours}, reference {theirs}"
    elif not parser.flaws:
        return f"no flaw; the reference says {vector['strict']['error']}"
    elif missing := lost(tokenizer.decode(vector["tokens"]), ours):
        return f"lost {missing} in {ours}"
    return _stream_difference(steps, vector["stream"]["steps"]) if vector.get("stream") else None


def _cut(ours: list[dict[str, str]], theirs: list[dict[str, str]]) -> list[dict[str, str]]:
    """Our messages, cut where the reference drops the rest of a message: after an id outside the vocabulary."""
    lengths = [len(message["content"]) if message["content"].endswith("\ufffd") else None for message in theirs]
    lengths += [None] * len(ours)
    return [{**message, "content": message["content"][:length]} for message, length in zip(ours, lengths, strict=False)]


def _stream_difference(steps: list[list[Event]], reference: list[list[Any]]) -> str | None:
    """None, or the first id after which header or text differ. For invalid bytes, text may arrive earlier or later."""
    header, ours, theirs = (), "", ""
    for number, (events, (state, *their_header, delta)) in enumerate(zip(steps, reference, strict=False)):
        for event in events:
            match event:
                case Start():
                    header, ours, theirs = astuple(event), "", ""
                case Delta():
                    ours += event.text
        if state != "Content":
            continue
        chosen = _as_chosen(dict(zip(("role", "channel", "recipient", "content_type"), their_header, strict=True)))
        theirs = _named(theirs + (delta or ""))
        if header != tuple(chosen.values()):
            return f"id {number}: our header {header}, reference {chosen}"
        if ours != theirs and "\ufffd" not in ours + theirs:
            return f"id {number}: our text {ours!r}, reference {theirs!r}"
    return None


def _set(message: dict[str, Any]) -> dict[str, str]:
    return {key: value for key, value in message.items() if value is not None}


def _as_chosen(message: dict[str, Any]) -> dict[str, Any]:
    """The reference's message with the deliberate differences listed in docs/harmony.md."""
    chosen = {key: value and _named(value) for key, value in message.items()}
    recipient = chosen.get("recipient")
    if chosen.get("content_type") is None and recipient and recipient.startswith("<|constrain|>"):
        chosen |= {"content_type": recipient, "recipient": None}
    return chosen


def _named(text: str) -> str:
    """Ids by their names in the published tokenizer.json."""
    return text.replace("<|reserved_200018|>", "<|endofprompt|>").replace("<|reserved_201088|>", "\ufffd")


def lost(text: str, messages: list[dict[str, str]]) -> list[str]:
    """Words of a completion that are in no message; if there are none, characters that occur more often than in the
    messages.
    """
    remaining = FORM.sub(" ", text)
    kept = " ".join(CONTROL.sub(" ", value) for message in messages for value in message.values())
    words = [word for word in WORD.findall(remaining) if word not in kept]
    return words or list((Counter("".join(remaining.split())) - Counter(kept)).elements())


def check(tokenizer: Tokenizer, file: Path) -> Iterator[tuple[str, str | None]]:
    """Each vector's name, and how it differs, or None."""
    for number, line in enumerate(file.read_bytes().splitlines(), 1):
        vector = json.loads(line)
        run = check_render if "mode" in vector else check_parse
        yield vector.get("id", f"line {number}"), run(tokenizer, vector)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m ossia.harmony", description=__doc__)
    commands = parser.add_subparsers(required=True)
    command = commands.add_parser("check", help="run a file of conformance vectors")
    command.add_argument("file", type=Path)
    command.add_argument("--tokenizer", type=Path, help="a tokenizer.json; o200k_harmony unless given")
    given = parser.parse_args(arguments)
    try:
        tokenizer = Tokenizer.from_file(given.tokenizer) if given.tokenizer else Tokenizer(o200k_harmony())
        results = list(check(tokenizer, given.file))
    except (OSError, TokenizerError, json.JSONDecodeError) as error:
        parser.error(f"cannot check {given.file}: {error}")
    failed = [f"{name}: {difference}" for name, difference in results if difference]
    print(*failed, f"{len(results) - len(failed)} passed, {len(failed)} failed", sep="\n")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
