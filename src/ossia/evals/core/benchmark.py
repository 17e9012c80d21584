"""A benchmark: where its samples come from, how a model is asked, how an answer is graded, and what was published.

In: data files. Out: `Sample`s, the `Ask` for each, and a `Grade` for each `Outcome`.
Conversations are OpenAI chat messages, so that the engine and any endpoint get the same ones.
"""

from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

from ossia.evals.core.judging import Judge
from ossia.harmony.messages import Effort, JsonObject
from ossia.task import Grade

Finish = Literal["stop", "tool_calls", "length", "error"]
Need = Literal["judge", "sandbox", "user_model"]


@dataclass(frozen=True, slots=True)
class Sample:
    """One question.

    - id: stable across versions of the data: from the content, or the data's own id.
    - question: OpenAI chat messages; or whatever the benchmark's own `converse` reads from `meta`.
    - cluster: samples of one cluster are not independent (a subject, a contest, a task). Equal to `id` if there is none.
    - tags: names of the groups it counts in: a subject, a category, a language.
    """

    id: str
    question: tuple[JsonObject, ...]
    target: Any = None
    cluster: str = ""
    tags: tuple[str, ...] = ()
    meta: Mapping[str, Any] = field(default_factory=dict[str, Any])


@dataclass(frozen=True, slots=True)
class Ask:
    """One request to a model.

    - messages: OpenAI chat messages; a `Reply.message` goes back whole, with its reasoning.
    - tools: function tools as Chat Completions has them. The benchmark runs them, not the solver.
    - max_tokens: None is the run's own limit.
    """

    messages: Sequence[JsonObject]
    tools: Sequence[JsonObject] = ()
    max_tokens: int | None = None
    stop: Sequence[str] = ()


class CallRequest(NamedTuple):
    """A call of a function by the model. arguments: the text as the model wrote it."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class TokenCounts:
    """Tokens of one reply, or of all replies of a sample. `output` includes `reasoning`."""

    prompt: int = 0
    output: int = 0
    reasoning: int = 0

    def __add__(self, other: "TokenCounts") -> "TokenCounts":
        return TokenCounts(self.prompt + other.prompt, self.output + other.output, self.reasoning + other.reasoning)


@dataclass(frozen=True, slots=True)
class Reply:
    """A model's answer to one `Ask`.

    - text: the final answer alone; None if there is none (cut, or only calls). Never the reasoning.
    - message: the assistant message for the next `Ask`, with its reasoning and calls.
    - flaws: what was malformed in the model's own output.
    - error: why no answer came, after the retries. All else is then empty.
    """

    text: str | None
    message: JsonObject
    calls: tuple[CallRequest, ...] = ()
    reasoning: str = ""
    finish: Finish = "stop"
    usage: TokenCounts = TokenCounts()
    flaws: tuple[str, ...] = ()
    error: str = ""


class TestedModel(Protocol):
    """Asks the model under test. Answers of many samples are computed together; the order of awaits changes nothing."""

    def __call__(self, ask: Ask) -> Awaitable[Reply]: ...


@dataclass(frozen=True, slots=True)
class Outcome:
    """All that a sample's conversation gave.

    - text: the last final answer; only this, `calls` and `meta` are graded.
    - messages: the whole conversation, for the log and the viewer.
    - meta: what a benchmark's own `converse` hands to its grader, as JSON.
    """

    text: str | None
    messages: tuple[JsonObject, ...]
    calls: tuple[CallRequest, ...] = ()
    finish: Finish = "stop"
    usage: TokenCounts = TokenCounts()
    flaws: tuple[str, ...] = ()
    seconds: float = 0.0
    error: str = ""
    meta: Mapping[str, Any] = field(default_factory=dict[str, Any])


class Tries(NamedTuple):
    """What a benchmark's `converse` may use besides the model.

    - repeat: 0 for the first try of this sample.
    - seed: equal for equal run seed, benchmark, sample and repeat; for permutations and simulators.
    - user_model: asks the model that plays the user; None if the benchmark needs none.
    """

    repeat: int
    seed: str
    user_model: TestedModel | None = None


Converse = Callable[[TestedModel, Sample, Tries], Awaitable[Outcome]]
GradeSample = Callable[[Sample, Outcome, Judge | None], Awaitable[Grade]]


class BenchmarkFile(NamedTuple):
    """A file that a benchmark reads.

    - path: relative to the data folder. sha256: of the version we know; "" if it is the user's own.
    - source: where people get it, for the error that says it is missing.
    """

    path: str
    sha256: str = ""
    source: str = ""


class GradedRow(NamedTuple):
    """One graded try, as aggregates read it."""

    sample: str
    repeat: int
    cluster: str
    tags: tuple[str, ...]
    grade: Grade
    outcome: Outcome


Aggregate = Callable[[Sequence[GradedRow]], dict[str, Any]]


class PublishedScore(NamedTuple):
    """A score that others printed.

    - model: "gpt-oss-120b", "gpt-oss-20b", "o3", "o3-mini", "o4-mini", or another name.
    - value: as printed: in percent, or as the benchmark's `scale` says. source: model card, paper or file.
    """

    model: str
    effort: Effort | Literal[""]
    value: float
    source: str
    note: str = ""


class Agreement(NamedTuple):
    """How often a judge agreed with hand-made labels."""

    agreed: int
    total: int


Calibrate = Callable[[Judge], Awaitable[Agreement]]


def mean_score(rows: Sequence[GradedRow]) -> dict[str, Any]:
    """No further figures: the mean of the scores and its intervals are reported for every benchmark."""
    del rows
    return {}


@dataclass(frozen=True, slots=True)
class Benchmark:
    """A benchmark.

    - load: samples from a data folder, in the data's order. Raises FileNotFoundError with where to get the data.
    - converse: holds the conversation of one try; most ask once (`ask_once`).
    - grade: the score of one try. It sees `final` text and calls, never reasoning as an answer.
    - repeats: tries of each sample unless the user says otherwise.
    - aggregate: further figures beside the mean score: by group, pass@k, a rating.
    - comparable: one sentence on how far the figure can be compared with the published one.
    - binary: scores are 0 or 1, so that intervals of a proportion apply.
    - scale: what the mean score is multiplied by to be printed: 100 for percent, 1 for a rating.
    - calibrate: asks the judge about items with known labels, for the report.

    A grade's metrics may hold "extracted": False where the final text held no answer that could be read.
    """

    name: str
    version: str
    title: str
    load: Callable[[Path], Iterator[Sample]]
    converse: Converse
    grade: GradeSample
    data: tuple[BenchmarkFile, ...] = ()
    needs: frozenset[Need] = frozenset()
    repeats: int = 1
    max_tokens: int = 131_072
    aggregate: Aggregate = mean_score
    published: tuple[PublishedScore, ...] = ()
    comparable: str = ""
    binary: bool = True
    scale: float = 100.0
    calibrate: Calibrate | None = None


async def ask_once(ask: TestedModel, sample: Sample, tries: Tries) -> Outcome:
    """One question, one answer."""
    del tries
    reply = await ask(Ask(sample.question))
    return outcome_of(reply, (*sample.question, reply.message))


def outcome_of(reply: Reply, messages: Sequence[JsonObject]) -> Outcome:
    """The outcome of a conversation that ends with this reply."""
    return Outcome(reply.text, tuple(messages), reply.calls, reply.finish, reply.usage, reply.flaws, error=reply.error)
