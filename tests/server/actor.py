"""An engine that plays a part: what it says is written for it, a function from the prompt's text to harmony text.

Everything around it is real: tokenizer, prompt, grammar, parser, service, routes. It says nothing that the grammar
forbids; a part that wants to is an error, so a test shows that the server allows what a model would say.
"""

import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

from ossia.engine.engine import Stats
from ossia.engine.request import Sampled, SamplingParams, TokenMask
from ossia.loading import Model
from ossia.model.config import ModelConfig
from ossia.tokenizer.tokenizer import Tokenizer

Part = Callable[[str], str]


def stage(tokenizer: Tokenizer, name: str = "gpt-oss-20b") -> Model:
    """A model of the 20b's shape without weights: for an engine that needs none."""
    stops = frozenset(tokenizer.special[each] for each in ("<|return|>", "<|call|>", "<|endoftext|>"))
    config: Any = SimpleNamespace(config=ModelConfig.preset("gpt-oss-20b"))
    return Model(name, config, tokenizer, stops)


class Actor:
    """A `TokenEngine`. seconds: how long a step takes; every request gets one token a step."""

    def __init__(self, tokenizer: Tokenizer, part: Part, seconds: float = 0.0, context: int = 131072) -> None:
        self.tokenizer, self.part, self.seconds, self.cache_tokens = tokenizer, part, seconds, context
        self.prompts: list[str] = []
        self._lines: list[Line] = []
        self._steps = self._said = 0

    def submit(self, prompt: Sequence[int], params: SamplingParams, mask: TokenMask | None = None) -> "Line":
        text = self.tokenizer.decode(prompt)
        self.prompts.append(text)
        line = Line(self.tokenizer, self.tokenizer.encode_with_special(self.part(text)), params, mask)
        self._lines.append(line)
        return line

    def release_memory(self) -> None:
        pass

    def step(self) -> bool:
        self._lines = [line for line in self._lines if not line.ended]
        if not self._lines:
            return False
        time.sleep(self.seconds)
        for line in self._lines:
            line.speak()
            self._said += 1
        self._steps += 1
        return True

    def stats(self) -> Stats:
        return Stats(self._steps, 0, self._said, 0, 0, 0, 0, len(self._lines), 0, 1, 1, 0, 0)


@dataclass(eq=False)
class Line:
    """One request's part of the play."""

    tokenizer: Tokenizer
    words: list[int]
    params: SamplingParams
    mask: TokenMask | None
    cached_tokens: int = 0
    written_tokens: int = 0
    said: int = 0
    ended: bool = False
    error: ValueError | None = None
    unread: list[Sampled] = field(default_factory=list)

    def speak(self) -> None:
        token = self.words[self.said]
        self.said += 1
        if self.mask:
            allowed = self.mask.mask()
            if allowed is not None and not allowed[token // 8] >> token % 8 & 1:
                before = self.tokenizer.decode(self.words[max(0, self.said - 20) : self.said - 1])
                self.error = ValueError(f"{self.tokenizer.decode([token])!r} is not allowed after {before!r}")
                self.ended = True
                return
            self.mask.accept(token)
        stopped = token in self.params.stop_tokens or self.said == len(self.words)
        self.ended = stopped or self.said == self.params.max_tokens
        top = ((token, -0.1), (0, -3.0))[: self.params.logprobs or 0]
        self.unread.append(Sampled(token, -0.1, top, ("stop" if stopped else "length") if self.ended else None))

    def ready(self) -> list[Sampled]:
        if self.error:
            raise self.error
        taken, self.unread = self.unread, []
        return taken

    def close(self) -> None:
        self.ended = True


def think(text: str) -> str:
    return f"<|channel|>analysis<|message|>{text}<|end|><|start|>assistant"


def final(text: str) -> str:
    return f"<|channel|>final<|message|>{text}<|return|>"


def call(recipient: str, arguments: str) -> str:
    return f"<|channel|>commentary to={recipient} <|constrain|>json<|message|>{arguments}<|call|>"


def last_user(prompt: str) -> str:
    """What the user said last; nothing where the prompt has no user, as a warm-up's has not."""
    said = re.findall(r"<\|start\|>user<\|message\|>(.*?)<\|end\|>", prompt, re.DOTALL)
    return said[-1] if said else ""


def last_tool(prompt: str) -> str | None:
    """What a tool has just answered, if it was the last to speak."""
    spoken = re.search(
        r"<\|start\|>[^<]* to=assistant(?:<\|channel\|>commentary)?<\|message\|>((?:(?!<\|start\|>).)*)<\|end\|><\|start\|>assistant$",
        prompt,
        re.DOTALL,
    )
    return spoken[1] if spoken else None
