"""What tool calls of an answer cost over the model's own time. A part of `benchmarks/tools.py`.

A server with ossia-mini answers over HTTP. Masks force what the model says, so each answer has one Python call and one
search, and every token is computed. Then the same prompts and tokens are computed again by an engine alone: that is the
model's own time. What is left is the server and the tools. Expected before measuring: 3 ms for each HTTP request and each
completion after a call, 0.1 ms a token, 55 ms to start Python (first cell), 2 ms for a search in a small folder.
"""

import socket
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Generator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import uvicorn

from ossia.engine.engine import Engine, Stream
from ossia.engine.request import SamplingParams, TokenMask
from ossia.loading import Model, load
from ossia.server.app import app
from ossia.server.core.context import Context
from ossia.server.core.hosted import hosted_sessions
from ossia.server.core.service import Service
from ossia.server.run import SWITCH_SECONDS
from ossia.server.settings import Settings
from ossia.server.state.store import Store
from ossia.tokenizer.tokenizer import Tokenizer
from ossia.tools.choose import ToolSettings

ROUNDS = 20
FILES = 20
THOUGHT = "I look at the numbers one by one, and then I know what to do next. " * 2
START = "<|channel|>analysis<|message|>"
CALLS: tuple[str, ...] = (
    f"{START}{THOUGHT}<|end|><|start|>assistant<|channel|>analysis to=python code<|message|>print(48213 * 7717)<|call|>",
    f"{START}{THOUGHT}<|end|><|start|>assistant<|channel|>analysis to=browser.search code<|message|>"
    '{"query": "harbor"}<|call|>',
)
ANSWER = f"{START}{THOUGHT}<|end|><|start|>assistant<|channel|>final<|message|>{THOUGHT}<|return|>"
TOOLS = [{"type": "code_interpreter", "container": {"type": "auto"}}, {"type": "web_search"}]


@dataclass
class ForcedTokens:
    """A mask that leaves the next token of a text. server: the mask of the request, which is computed too."""

    tokens: list[int]
    server: TokenMask | None = None
    said: int = 0

    def mask(self) -> bytes:
        if self.server:
            self.server.mask()
        token = self.tokens[self.said]
        return bytes(token >> 3) + bytes([1 << (token & 7)])

    def accept(self, token: int) -> None:
        if self.server:
            self.server.accept(token)
        self.said += 1


@dataclass
class Turn:
    """One completion: its prompt and what was said."""

    prompt: list[int]
    params: SamplingParams
    said: list[int]


class ForcedEngine(Engine):
    """An engine whose model says the calls, then the answer. turns: of the requests since the list was cleared."""

    def __init__(self, model: Model, tokenizer: Tokenizer) -> None:
        super().__init__(model.transformer)
        self.tokenizer, self.turns, self.left = tokenizer, list[Turn](), list[str]()

    def submit(self, prompt: Sequence[int], params: SamplingParams, mask: TokenMask | None = None) -> Stream:
        text = self.left.pop(0) if self.left else ANSWER
        turn = Turn(list(prompt), params, self.tokenizer.encode_with_special(text))
        self.turns.append(turn)
        return super().submit(prompt, params, ForcedTokens(turn.said, mask))


@dataclass
class Measured:
    """Seconds of one kind of answer through the server and of the model alone, one of each for each round."""

    name: str
    server: list[float] = field(default_factory=list)
    alone: list[float] = field(default_factory=list)
    tokens: int = 0

    @property
    def over(self) -> float:
        return statistics.median(whole - own for whole, own in zip(self.server, self.alone, strict=True))

    def row(self) -> str:
        whole, own = statistics.median(self.server), statistics.median(self.alone)
        ratio = statistics.median(a / b for a, b in zip(self.server, self.alone, strict=True))
        times = " | ".join(f"{1e3 * each:.1f} ms" for each in (whole, own, self.over))
        return f"| {self.name} | {self.tokens} | {times} | {ratio:.2f} |"


def round_trip_part(rounds: int = ROUNDS) -> None:
    """A table: answers without tools, with both calls at the start of a conversation, and with both later in it."""
    sys.setswitchinterval(SWITCH_SECONDS)  # as `ossia serve` does
    model = load("ossia-mini")
    assert model.tokenizer is not None
    served, alone = ForcedEngine(model, model.tokenizer), model.engine()
    kinds = [Measured("no tools"), Measured("two calls, first answer"), Measured("two calls, later answer")]
    with _server(model, served) as url, httpx.Client(base_url=url, timeout=60) as client:
        for number in range(rounds + 1):  # the first round fills both prefix caches and is left out
            last = None
            for kind in kinds:
                whole, last = _asked(client, served, f"Question {number}?", kind is not kinds[0], last)
                own = sum(_alone(alone, turn) for turn in served.turns)
                if number:
                    kind.server.append(whole)
                    kind.alone.append(own)
                kind.tokens = sum(len(turn.said) for turn in served.turns)
                last = last if kind is not kinds[0] else None
    print("| answer | tokens | through the server | model alone | over it | ratio |\n|---|---|---|---|---|---|")
    print("\n".join(kind.row() for kind in kinds))
    plain, first, later = kinds
    costs = [1e3 * (kind.over - plain.over) / 2 for kind in (first, later)]
    print(f"\nOne call: {costs[0]:.1f} ms at first, {costs[1]:.1f} ms later.")


def _asked(client: httpx.Client, engine: ForcedEngine, text: str, uses: bool, last: str | None) -> tuple[float, str]:
    """The seconds of one answer, and its id."""
    engine.turns.clear()
    engine.left = list(CALLS) if uses else []
    body = {"input": text, "tools": TOOLS if uses else [], "previous_response_id": last}
    began = time.perf_counter()
    answer = client.post("/v1/responses", json=body).raise_for_status().json()
    spent = time.perf_counter() - began
    kinds = [item["type"] for item in answer["output"] if item["type"].endswith("_call")]
    assert kinds == (["code_interpreter_call", "web_search_call"] if uses else []), kinds
    assert answer["status"] == "completed", answer
    return spent, answer["id"]


def _alone(engine: Engine, turn: Turn) -> float:
    """The seconds of the same completion by an engine alone."""
    began = time.perf_counter()
    said = [sampled.token for sampled in engine.submit(turn.prompt, turn.params, ForcedTokens(turn.said))]
    spent = time.perf_counter() - began
    assert said == turn.said
    return spent


@contextmanager
def _server(model: Model, engine: ForcedEngine) -> Generator[str]:
    """A server with Python and a browser over a small folder, in a thread. Yields its address."""
    with ExitStack() as stack:
        pages = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        state = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        for number in range(FILES):
            (pages / f"{number}.md").write_text(f"# Place {number}\n\nIts harbor has {number} cranes.\n", "utf-8")
        settings = Settings(log_requests=False, tools=ToolSettings(("python", "browser"), f"corpus:{pages}"))
        service = Service(model, settings, make_engine=lambda: engine)
        hosted = hosted_sessions(settings.tools, service.tokenizer, service.context)
        store = Store(state, service.tokenizer)
        stack.callback(store.close)
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        config = uvicorn.Config(app(Context(settings, service, store, store, hosted=hosted)), log_level="warning")
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
        thread.start()
        address = f"http://127.0.0.1:{listener.getsockname()[1]}"
        httpx.get(f"{address}/health", timeout=60).raise_for_status()
        try:
            yield address
        finally:
            server.should_exit = True
            thread.join(20)
