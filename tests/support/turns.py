"""What a model says, as harmony text; and what a prompt of harmony text ends with."""

import re


def think(text: str) -> str:
    return f"<|channel|>analysis<|message|>{text}<|end|><|start|>assistant"


def say(text: str) -> str:
    """A preamble: words for the user before a call."""
    return f"<|channel|>commentary<|message|>{text}<|end|><|start|>assistant"


def final(text: str) -> str:
    return f"<|channel|>final<|message|>{text}<|return|>"


def call(function: str, arguments: str) -> str:
    return f"<|channel|>commentary to=functions.{function} <|constrain|>json<|message|>{arguments}<|call|>"


def last_user(prompt: str) -> str:
    """What the user said last; nothing where the prompt has no user, as a warm-up's has not."""
    said = re.findall(r"<\|start\|>user<\|message\|>(.*?)<\|end\|>", prompt, re.DOTALL)
    return said[-1] if said else ""


def last_tool(prompt: str) -> str | None:
    """What a tool has just answered, if it was the last to speak."""
    spoken = re.search(
        r"<\|start\|>[^<]* to=assistant(?:<\|channel\|>(?:commentary|analysis))?<\|message\|>((?:(?!<\|start\|>).)*)<\|end\|><\|start\|>assistant$",
        prompt,
        re.DOTALL,
    )
    return spoken[1] if spoken else None
