"""/v1/completions: continues a text or token ids, without roles and channels.

In: prompts. Out: OpenAI's JSON, or server-sent events that end in [DONE].
A prompt's text cannot contain control tokens; token ids can.
"""

import asyncio
import secrets
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple

from msgspec import UNSET, Raw, Struct, UnsetType
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from ossia.chat import Usage as Counts
from ossia.engine.request import Sampled, SamplingParams
from ossia.harmony.enforce import SchemaError
from ossia.harmony.stops import StopText
from ossia.harmony.text_mask import TextMask
from ossia.server.apis.chat.chat_wire import ChatUsage, CompletionTokensDetails, PromptTokensDetails
from ossia.server.apis.fields.answer_form import RequestedForm, form_of
from ossia.server.apis.fields.choices import DONE, StreamOptions, merge_limited, send_choices
from ossia.server.apis.fields.extensions import FormExtensions, not_honoured
from ossia.server.apis.fields.sampling import sampling_params, stop_strings
from ossia.server.core.context import Context
from ossia.server.core.service import Service
from ossia.server.core.warnings import header
from ossia.server.errors import bad
from ossia.server.http.decoding.json_codec import MIN_LOGPROB, encode
from ossia.server.http.requests import client_of, read, sse, until_disconnect
from ossia.tokenizer.tokenizer import TextStream, Tokenizer

MAX_PROMPTS, MAX_CHOICES = 64, 16
MAX_SCORES = 8_000_000  # log-probabilities in one answer: tokens, each with its likeliest, of all choices
DEFAULT_TOKENS = 16  # OpenAI's own


class CompletionRequest(FormExtensions):
    prompt: Any
    model: str | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    echo: bool | None = None
    n: int | None = None
    best_of: int | None = None
    max_tokens: int | None = None
    logprobs: int | None = None
    suffix: str | None = None
    response_format: dict[str, Any] | None = None


class CompletionLogprobs(Struct):
    """Beside each token its place in the text. The first token of an echoed prompt has no probability."""

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None]
    text_offset: list[int]


class CompletionChoice(Struct):
    index: int
    text: str
    logprobs: CompletionLogprobs | None = None
    finish_reason: Literal["stop", "length"] | None = None


class CompletionResponse(Struct):
    id: str
    created: int
    model: str
    choices: list[CompletionChoice]
    object: Literal["text_completion"] = "text_completion"
    usage: ChatUsage | UnsetType = UNSET


def routes(context: Context) -> list[Route]:
    async def complete(request: Request) -> Response:
        return await _complete(context, request)

    return [Route("/v1/completions", complete, methods=["POST"])]


async def _complete(context: Context, request: Request) -> Response:
    body = await read(request, CompletionRequest)
    answer = await until_disconnect(request, prepare(context, body, client_of(request)))
    return await send_choices(request, body, answer, header(answer.warnings))


async def prepare(context: Context, body: CompletionRequest, client: str) -> "CompletionRun":
    """Check a request and tokenize its prompts. Raises ApiError."""
    model, service = context.check_model(body.model), context.service
    warnings: list[str] = []
    params = _params(body, service.model.stop_tokens, warnings)
    form = form_of(body.response_format, body, warnings)
    warnings += not_honoured(body, skip_special_tokens=False)
    answer = CompletionRun(context, body, [], params, form, client, model, warnings)
    texts = _texts(body.prompt)
    service.check_choices(len(texts) * answer.samples)
    for text in texts:  # before any is tokenized
        if isinstance(text, list):
            service.limits.check_length(text[1:] if body.max_tokens == 0 else text, "prompt")
        elif isinstance(text, str):
            service.limits.check_text(len(text), "prompt")
    answer.prompts = await asyncio.to_thread(lambda: [_ids(text, service) for text in texts])
    if body.echo and body.logprobs is not None:
        scores = sum(map(len, answer.prompts)) * (body.logprobs + 1) * answer.samples
        if scores > MAX_SCORES:
            raise bad("logprobs", f"the echo has {scores} log-probabilities: want {MAX_SCORES} at most in one answer")
    if form.enforced is not None:
        await asyncio.to_thread(answer.mask)
    return answer


def _texts(body: Any) -> list[Any]:
    """One text, several, one list of ids, or several."""
    match body:
        case str():
            texts: list[Any] = [body]
        case [int(), *_]:
            texts = [body]
        case [*several] if several:
            texts = list(several)
        case _:
            raise bad("prompt", "prompt must be a text or token ids, or several of either, and not empty")
    if len(texts) > MAX_PROMPTS:
        raise bad("prompt", f"prompt has {len(texts)} texts: want {MAX_PROMPTS} at most")
    return texts


def _ids(text: Any, service: Service) -> list[int]:
    tokenizer = service.tokenizer
    if isinstance(text, str):
        service.limits.check_bytes([text], "prompt")
    ids = tokenizer.encode(text) if isinstance(text, str) else text
    if not isinstance(ids, list) or not all(type(each) is int and 0 <= each < tokenizer.size for each in ids):
        raise bad("prompt", f"prompt must be a text, or token ids from 0 to {tokenizer.size - 1}")
    if not ids:
        raise bad("prompt", "prompt is empty: there is nothing to continue")
    return ids


class _Echo(NamedTuple):
    """An echoed prompt. end: the offset of the text after it."""

    text: str
    logprobs: CompletionLogprobs | None
    end: int


class _LogprobsEncoder:
    """Log-probabilities of a choice, encoded piece by piece: a long echo has many."""

    def __init__(self) -> None:
        self._parts: list[list[bytes]] = [[] for _ in CompletionLogprobs.__struct_fields__]

    def add(self, logprobs: CompletionLogprobs) -> None:
        for parts, name in zip(self._parts, CompletionLogprobs.__struct_fields__):
            if inner := encode(getattr(logprobs, name))[1:-1]:
                parts.append(inner)

    def whole(self) -> CompletionLogprobs:
        lists: list[Any] = [Raw(b"[%b]" % b",".join(parts)) for parts in self._parts]
        return CompletionLogprobs(*lists)


def _params(request: CompletionRequest, stop_tokens: frozenset[int], warnings: list[str]) -> SamplingParams:
    """The sampling parameters. Raises ApiError that names an invalid field."""
    if request.suffix:
        raise bad("suffix", "suffix is not supported: leave it out", "unsupported_parameter")
    if request.n is not None and not 1 <= request.n <= MAX_CHOICES:
        raise bad("n", f"n is {request.n}: want 1 to {MAX_CHOICES}")
    if request.best_of not in (None, 0, 1) and not (request.n or 1) <= request.best_of <= MAX_CHOICES:
        raise bad("best_of", f"best_of is {request.best_of}: want n to {MAX_CHOICES}")
    if (request.best_of or 1) > (request.n or 1) and request.stream:
        raise bad("best_of", "best_of chooses among whole answers, so it cannot be streamed", "unsupported_parameter")
    if request.max_tokens == 0 and not request.echo:
        raise bad("max_tokens", "max_tokens 0 needs echo")
    stop_strings(request.stop)
    return sampling_params(
        request,
        frozenset() if request.ignore_eos else stop_tokens,
        warnings,
        max_tokens=DEFAULT_TOKENS if request.max_tokens is None else request.max_tokens or 1,
        logprobs=request.logprobs,
        logprobs_param="logprobs",
    )


@dataclass(slots=True)
class CompletionRun:
    """All choices of one request: `n` for each prompt, in the prompts' order.

    Of `best_of` samples, the `n` with the highest log-probability per token are returned. Usage counts all of them.
    """

    context: Context
    request: CompletionRequest
    prompts: list[list[int]]
    params: SamplingParams
    form: RequestedForm
    client: str
    model: str
    warnings: list[str]
    id: str = field(default_factory=lambda: f"cmpl-{secrets.token_hex(12)}")
    created: int = field(default_factory=lambda: int(time.time()))
    counts: dict[int, list[Counts]] = field(default_factory=dict)  # of the choices of each prompt
    scores: dict[int, list[float]] = field(default_factory=dict)  # log-probabilities of the tokens of each sample
    output_tokens: int = 0
    echoes: dict[tuple[int, ...], _Echo] = field(default_factory=dict)  # by prompt: equal ones are scored once
    locks: dict[tuple[int, ...], asyncio.Lock] = field(default_factory=dict)

    @property
    def samples(self) -> int:
        """Samples of each prompt."""
        return max(self.request.n or 1, self.request.best_of or 1)

    @property
    def choices(self) -> int:
        return len(self.prompts) * self.samples

    def mask(self) -> TextMask | None:
        """The mask of one choice. Raises ApiError if the form cannot be enforced. Not for the event loop's thread."""
        if self.form.enforced is None:
            return None
        try:
            return TextMask(self.context.service.grammars, self.form.enforced, self.params.stop_tokens)
        except SchemaError as error:
            raise bad(self.form.param, str(error), error.code) from error

    async def whole(self) -> CompletionResponse:
        choices = [CompletionChoice(index, "") for index in range(self.choices)]
        texts: list[list[str]] = [[] for _ in choices]
        only: dict[int, CompletionLogprobs] = {}  # an echo's are shared by the choices of a prompt
        scores: dict[int, _LogprobsEncoder] = {}
        async with aclosing(self._all()) as pieces:
            async for index, piece in pieces:
                texts[index].append(piece.text)
                choices[index].finish_reason = piece.finish_reason or choices[index].finish_reason
                if piece.logprobs and index not in scores and index not in only:
                    only[index] = piece.logprobs
                elif piece.logprobs:
                    if index in only:
                        scores[index] = _LogprobsEncoder()
                        scores[index].add(only.pop(index))
                    scores[index].add(piece.logprobs)
        for choice, parts in zip(choices, texts):
            choice.text = "".join(parts)
            choice.logprobs = scores[choice.index].whole() if choice.index in scores else only.get(choice.index)
            await asyncio.sleep(0)  # a long one took a while
        return CompletionResponse(self.id, self.created, self.model, self._best(choices), usage=self._usage())

    def _best(self, choices: list[CompletionChoice]) -> list[CompletionChoice]:
        if self.samples == (self.request.n or 1):
            return choices
        best: list[CompletionChoice] = []
        for first in range(0, len(choices), self.samples):
            several = sorted(choices[first : first + self.samples], key=lambda each: -self._mean(each.index))
            best += several[: self.request.n or 1]
        for number, choice in enumerate(best):
            choice.index = number
        return best

    def _mean(self, index: int) -> float:
        scores = self.scores.get(index, ())
        return sum(scores) / max(len(scores), 1)

    def _all(self) -> AsyncGenerator[tuple[int, CompletionChoice], None]:
        return merge_limited(
            [self._pieces(index) for index in range(self.choices)], self.context.service.parallel_choices
        )

    async def frames(self, wants_usage: bool) -> AsyncGenerator[bytes, None]:
        async with aclosing(self._all()) as pieces:
            async for _, piece in pieces:
                yield sse(CompletionResponse(self.id, self.created, self.model, [piece]))
        if wants_usage:
            yield sse(CompletionResponse(self.id, self.created, self.model, [], usage=self._usage()))
        yield DONE

    async def _pieces(self, index: int) -> AsyncGenerator[CompletionChoice, None]:
        """The choice in pieces: the echo, the text, and at last the finish reason."""
        number = index // self.samples
        prompt = self.prompts[number]
        scored = self.request.logprobs is not None
        writer = _TextWriter(self.context.service.tokenizer, index, stop_strings(self.request.stop), scored)
        if self.request.echo:
            echo = await self._echo(prompt)
            writer.begin_at(echo.end)
            yield CompletionChoice(index, echo.text, echo.logprobs)
        if self.request.max_tokens == 0:
            yield CompletionChoice(index, "", finish_reason="length")
            return
        params = self.params
        if params.seed is not None:
            params = replace(params, seed=params.seed + 1_000_003 * (index % self.samples))
        mask = await asyncio.to_thread(self.mask) if self.form.enforced is not None else None
        service = self.context.service
        async with aclosing(service.continuation(prompt, params, self.client, lambda: writer.finished, mask)) as tokens:
            async for each in tokens:
                if isinstance(each, Counts):
                    self.counts.setdefault(number, []).append(each)
                    continue
                self.output_tokens += 1
                if self.samples > (self.request.n or 1):
                    self.scores.setdefault(index, []).append(each.logprob)
                if piece := writer.write(each):
                    yield piece
        if not writer.finished:
            yield writer.end()

    async def _echo(self, prompt: list[int]) -> _Echo:
        """The echo of a prompt. It is scored once for all choices."""
        key, top = tuple(prompt), self.request.logprobs
        async with self.locks.setdefault(key, asyncio.Lock()):
            if key not in self.echoes:
                scores = None if top is None else await self.context.service.score(prompt, top, self.client)
                self.echoes[key] = await asyncio.to_thread(_echo_of, self.context.service.tokenizer, prompt, scores)
            return self.echoes[key]

    def _usage(self) -> ChatUsage:
        prompt = sum(len(each) for each in self.prompts)
        cached = sum(min(each.cached_tokens for each in counts) for counts in self.counts.values())
        written = sum(max(each.written_tokens for each in counts) for counts in self.counts.values())
        return ChatUsage(
            prompt,
            self.output_tokens,
            prompt + self.output_tokens,
            PromptTokensDetails(cached, written),
            CompletionTokensDetails(0),
        )


class _TextWriter:
    """The text of one choice, token by token; `finished` once it has ended."""

    def __init__(self, tokenizer: Tokenizer, index: int, stop: Sequence[str], scored: bool) -> None:
        self._tokenizer, self._index, self._scored = tokenizer, index, scored
        self._text, self._stop, self._offset = TextStream(tokenizer), StopText(stop), 0
        self.finished = False

    def write(self, sampled: Sampled) -> CompletionChoice | None:
        """The text that this token completes. A token that ends the turn has no text."""
        ends = sampled.finish == "stop"
        text = "" if ends else self._text.feed(sampled.token)
        logprobs = self._logprobs([sampled]) if self._scored and not ends else None
        shown = self._stop.feed(text + (self._text.flush() if sampled.finish else ""))
        finish = "stop" if self._stop.stopped_by else sampled.finish
        if finish:
            self.finished = True
            shown += self._stop.flush()
        return CompletionChoice(self._index, shown, logprobs, finish) if shown or logprobs or finish else None

    def end(self) -> CompletionChoice:
        """The last piece of a choice that ran out of time."""
        self.finished = True
        return CompletionChoice(self._index, self._stop.feed(self._text.flush()) + self._stop.flush(), None, "length")

    def begin_at(self, offset: int) -> None:
        """Set the offset of the text after an echo."""
        self._offset = offset

    def scored(self, scores: Sequence[Sampled]) -> tuple[CompletionLogprobs, int]:
        """The log-probabilities of a prompt and the offset of its end. The first token has none."""
        logprobs = self._logprobs(scores)
        logprobs.token_logprobs[0] = logprobs.top_logprobs[0] = None
        return logprobs, self._offset

    def _logprobs(self, tokens: Sequence[Sampled]) -> CompletionLogprobs:
        found = CompletionLogprobs([], [], [], [])
        for each in tokens:
            text = self._name(each.token)
            found.tokens.append(text)
            found.token_logprobs.append(max(each.logprob, MIN_LOGPROB))
            found.top_logprobs.append({self._name(token): max(value, MIN_LOGPROB) for token, value in each.top})
            found.text_offset.append(self._offset)
            self._offset += len(text)
        return found

    def _name(self, token: int) -> str:
        return self._tokenizer.token_bytes(token).decode("utf-8", "replace")


def _echo_of(tokenizer: Tokenizer, prompt: list[int], scores: Sequence[Sampled] | None) -> _Echo:
    text = tokenizer.decode(prompt)
    if scores is None:
        return _Echo(text, None, len(text))
    logprobs, end = _TextWriter(tokenizer, 0, (), scored=True).scored(scores)
    encoded = _LogprobsEncoder()
    encoded.add(logprobs)
    return _Echo(text, encoded.whole(), end)
