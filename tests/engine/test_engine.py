"""The engine's guarantee: an answer never depends on scheduling. Also errors, and requests that are closed early."""

import asyncio
import threading
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ossia.engine.engine import Engine, max_score_rows
from ossia.engine.request import ContextError, SamplingParams
from ossia.engine.sampler import score
from ossia.engine.scheduler import SCORED_LOGITS, SCORED_ROWS
from ossia.kernels.ops import Batch
from tests.support.fake_model import VOCAB, FakeModel, cache_for, config, greedy, logits_after

GREEDY = SamplingParams(temperature=0, max_tokens=12)
PROMPTS = st.lists(st.lists(st.integers(0, VOCAB - 1), min_size=1, max_size=70), min_size=1, max_size=6)


def tokens(answers) -> list[list[int]]:
    return [[sampled.token for sampled in answer] for answer in answers]


@settings(max_examples=60, deadline=None)
@given(prompts=PROMPTS, budget=st.integers(1, 200), blocks=st.integers(6, 40))
def test_answers_do_not_depend_on_batch_chunks_or_preemption(prompts: list[list[int]], budget: int, blocks: int):
    engine = Engine(FakeModel(), cache_bytes=cache_for(blocks), max_batched_tokens=budget)
    assert tokens(engine.generate(prompts, GREEDY)) == [greedy(prompt, 12) for prompt in prompts]
    stats = engine.stats()
    assert (stats.running, stats.waiting, stats.free_blocks) == (0, 0, stats.blocks)


@settings(max_examples=30, deadline=None)
@given(prompts=PROMPTS, budget=st.integers(1, 64))
def test_seeded_draws_do_not_depend_on_scheduling(prompts: list[list[int]], budget: int):
    params = SamplingParams(seed=5, max_tokens=8)
    alone = [tokens(Engine(FakeModel()).generate([prompt], params))[0] for prompt in prompts]
    assert (
        tokens(Engine(FakeModel(), max_batched_tokens=budget, cache_bytes=cache_for(6)).generate(prompts, params))
        == alone
    )


@settings(max_examples=40, deadline=None)
@given(prompts=PROMPTS, budget=st.integers(1, 64), blocks=st.integers(6, 40))
def test_K2_scores_of_a_prompt_do_not_depend_on_batch_chunks_or_preemption(
    prompts: list[list[int]], budget: int, blocks: int
):
    engine = Engine(FakeModel(), cache_bytes=cache_for(blocks), max_batched_tokens=budget)
    scored = SamplingParams(temperature=0, max_tokens=2, prompt_logprobs=3)
    for _ in range(2):  # a cached prompt is scored too
        streams = [engine.submit(prompt, scored if n % 2 == 0 else GREEDY) for n, prompt in enumerate(prompts)]
        assert tokens(streams) == [greedy(prompt, 12 if n % 2 else 2) for n, prompt in enumerate(prompts)]
        for prompt, stream in zip(prompts[::2], streams[::2]):
            assert stream.scores == [
                score(logits_after(prompt[:place]), prompt[place], 3) for place in range(1, len(prompt))
            ]


def test_K2_a_step_scores_few_rows_and_serves_the_others():
    model = FakeModel()
    engine = Engine(model)
    engine._scheduler.score_rows = 32
    running = engine.submit([1, 2, 3], SamplingParams(temperature=0, max_tokens=12))
    next(running)
    scored = [engine.submit(list(range(30)) * 4, SamplingParams(max_tokens=1, prompt_logprobs=1)) for _ in range(3)]
    before = engine.stats()
    list(running)
    assert engine.stats().steps - before.steps == 11  # one token per step
    assert max(model.rows) <= 1 + 32
    assert [len(list(each)) for each in scored] == [1, 1, 1]


def test_K2_a_new_request_does_not_wait_for_prompts_that_are_scored():
    engine = Engine(FakeModel())
    engine._scheduler.score_rows = 32
    asked = SamplingParams(max_tokens=1, prompt_logprobs=1)
    scored = [engine.submit([n, *range(30), *range(30), *range(30)], asked) for n in range(5)]
    engine.step()
    newcomer = engine.submit([1, 2, 3], GREEDY)
    engine.step()
    assert [each.token for each in newcomer.ready()] == greedy([1, 2, 3], 1)
    assert [len(list(each)) for each in scored] == [1] * 5
    assert [len(each.scores) for each in scored] == [90] * 5


@pytest.mark.parametrize(("vocab", "rows"), [(1024, SCORED_ROWS), (201_088, 41), (SCORED_LOGITS * 2, 1)])
def test_K2_a_large_vocabulary_is_scored_in_fewer_rows(vocab: int, rows: int):
    assert max_score_rows(vocab) == rows


def test_a_step_stays_within_its_budget_and_decoders_go_first():
    model = FakeModel()
    engine = Engine(model, max_batched_tokens=10)
    first = engine.submit([1, 2, 3], GREEDY)
    next(first)
    second = engine.submit(list(range(30)), GREEDY)
    next(second)
    assert max(model.rows) <= 10
    assert tokens([list(first)])[0] == greedy([1, 2, 3], 12)[1:]  # it got a token in every step
    assert engine.stats().steps <= 1 + 12 + 12


def test_preemption_really_happens_where_it_is_tested():
    model = FakeModel()
    engine = Engine(model, cache_bytes=cache_for(6), prefix_bytes=0)
    prompts = [[i] * 40 for i in range(2)]
    params = SamplingParams(temperature=0, max_tokens=30)
    assert tokens(engine.generate(prompts, params)) == [greedy(prompt, 30) for prompt in prompts]
    assert sum(model.rows) > 2 * 40 + 2 * 29
    assert engine.stats().preemptions > 0


def test_a_stop_token_is_given_and_ends_the_answer():
    said = greedy([3], 12)
    stop = said[4]
    engine = Engine(FakeModel())
    (answer,) = engine.generate([[3]], SamplingParams(temperature=0, stop_tokens=frozenset([stop])))
    assert tokens([answer])[0] == said[: said.index(stop) + 1]
    assert answer[-1].finish == "stop"
    assert all(sampled.finish is None for sampled in answer[:-1])


def test_max_tokens_and_the_context_end_an_answer_with_length():
    engine = Engine(FakeModel(config(max_context=20)))
    (short,) = engine.generate([[1]], SamplingParams(max_tokens=3))
    assert [sampled.finish for sampled in short] == [None, None, "length"]
    (full,) = engine.generate([[1] * 15], SamplingParams())
    assert len(full) == 5
    assert full[-1].finish == "length"


def test_a_prompt_that_does_not_fit_is_refused_before_any_work():
    model = FakeModel(config(max_context=20))
    engine = Engine(model)
    engine.submit([1] * 19, GREEDY)
    with pytest.raises(ContextError, match=r"20 tokens.*context 20"):
        engine.submit([1] * 20, GREEDY)
    with pytest.raises(ContextError, match=r"50 tokens.*cache holds 32"):
        Engine(FakeModel(), cache_bytes=cache_for(2)).submit([1] * 50, GREEDY)
    assert model.calls == 0


@pytest.mark.parametrize(
    ("prompt", "said"), [([], "prompt is empty"), ([1, VOCAB], f"token id {VOCAB}"), ([-1], "token id -1")]
)
def test_bad_prompts_are_refused_by_name(prompt: list[int], said: str):
    with pytest.raises(ValueError, match=said):
        Engine(FakeModel()).submit(prompt, GREEDY)


def test_closing_or_dropping_a_stream_frees_its_blocks_at_once():
    engine = Engine(FakeModel())
    stream, dropped = engine.submit([1] * 40, GREEDY), engine.submit([2] * 40, GREEDY)
    next(stream)
    assert engine.stats().free_blocks < engine.stats().blocks
    stream.close()
    del dropped
    stats = engine.stats()
    assert (stats.running, stats.waiting, stats.free_blocks) == (0, 0, stats.blocks)
    assert list(stream) == []


def test_a_waiting_request_can_be_cancelled_and_others_go_on():
    engine = Engine(FakeModel(), cache_bytes=cache_for(4))
    first, second, third = (engine.submit([i] * 40, GREEDY) for i in range(3))
    second.close()
    assert tokens([list(third), list(first)]) == [greedy([2] * 40, 12), greedy([0] * 40, 12)]


def test_threads_may_each_read_a_stream():
    engine = Engine(FakeModel(), max_batched_tokens=16)
    prompts = [[i, i + 1, i + 2] * 5 for i in range(8)]
    answers: dict[int, list[int]] = {}

    def read(i: int) -> None:
        answers[i] = tokens([list(engine.submit(prompts[i], GREEDY))])[0]

    threads = [threading.Thread(target=read, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == {i: greedy(prompt, 12) for i, prompt in enumerate(prompts)}


def test_streams_are_for_asyncio_too():
    engine = Engine(FakeModel())

    async def read(prompt: list[int]) -> list[int]:
        return [sampled.token async for sampled in engine.submit(prompt, GREEDY)]

    async def both() -> list[list[int]]:
        return await asyncio.gather(read([1, 2]), read([3] * 30))

    assert asyncio.run(both()) == [greedy([1, 2], 12), greedy([3] * 30, 12)]


def test_an_error_in_a_step_reaches_every_stream_and_closes_the_engine_clearly():
    engine = Engine(FakeModel(fail_at=2))
    first, second = engine.submit([1], GREEDY), engine.submit([2], GREEDY)
    next(first)
    with pytest.raises(MemoryError, match="no memory for this step"):
        list(first)
    next(second)  # it was sampled in the step that succeeded
    with pytest.raises(RuntimeError, match="the engine stopped: no memory"):
        next(second)
    with pytest.raises(RuntimeError, match="the engine stopped"):
        engine.submit([3], GREEDY)


class Interrupting(FakeModel):
    """A model that lets a test act while it computes."""

    def __init__(self, act: Callable[[], object]) -> None:
        super().__init__()
        self.act = act

    def forward(self, batch: Batch, cache: list[np.ndarray]) -> np.ndarray:
        logits = super().forward(batch, cache)
        self.act()
        return logits


def test_a_stream_closed_while_the_model_computes_frees_at_once_and_disturbs_no_other():
    held = []

    def close_second() -> None:
        second.close()
        held.append(engine.stats())

    engine = Engine(Interrupting(close_second))
    first, second = engine.submit([1] * 40, GREEDY), engine.submit([2] * 40, GREEDY)
    assert tokens([list(first)]) == [greedy([1] * 40, 12)]
    assert list(second) == []
    assert held[0].blocks - held[0].free_blocks == 3 + 3  # the first one's, of either kind


def test_a_stream_collected_while_the_model_computes_is_swept_at_the_next_call():
    engine = Engine(Interrupting(lambda: streams.clear()))
    first, streams = engine.submit([1] * 40, GREEDY), [engine.submit([2] * 40, GREEDY)]
    assert tokens([list(first)]) == [greedy([1] * 40, 12)]
    stats = engine.stats()
    assert (stats.running, stats.waiting, stats.free_blocks) == (0, 0, stats.blocks)
    assert stats.output_tokens < 2 * 12


def test_requests_may_be_submitted_while_the_model_computes():
    later = []
    engine = Engine(Interrupting(lambda: later or later.append(engine.submit([7], GREEDY))))
    assert tokens([list(engine.submit([1], GREEDY)), list(later[0])]) == [greedy([1], 12), greedy([7], 12)]


def test_an_interrupted_step_is_taken_again():
    def interrupt_once() -> None:
        if model.calls == 2:
            raise KeyboardInterrupt

    model = Interrupting(interrupt_once)
    stream = Engine(model).submit([1, 2], GREEDY)
    first = next(stream)
    with pytest.raises(KeyboardInterrupt):
        next(stream)
    assert tokens([[first, *stream]]) == [greedy([1, 2], 12)]


def test_an_interrupt_before_the_model_computes_leaves_no_thread_waiting(monkeypatch: pytest.MonkeyPatch):
    engine = Engine(FakeModel())
    stream = engine.submit([1, 2], GREEDY)

    def interrupt(chunks: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(engine, "_run", interrupt)
        with pytest.raises(KeyboardInterrupt):
            next(stream)
    assert tokens([list(stream)]) == [greedy([1, 2], 12)]


def test_a_cancelled_wait_loses_no_token():
    computing, go_on = threading.Event(), threading.Event()

    def block() -> None:
        computing.set()
        go_on.wait()

    stream = Engine(Interrupting(block)).submit([1, 2], GREEDY)

    async def read() -> list[int]:
        waiting = asyncio.ensure_future(anext(stream))
        await asyncio.to_thread(computing.wait)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        go_on.set()
        return [sampled.token async for sampled in stream]

    assert asyncio.run(read()) == greedy([1, 2], 12)


def test_any_whole_number_is_a_seed_of_its_own():
    seeds = (0, 1, -1, -2, 2**63 - 1, 2**63, 2**63 + 1, 2**64 - 5)
    answers = {
        tuple(tokens([list(Engine(FakeModel()).submit([1], SamplingParams(seed=seed, max_tokens=12)))])[0])
        for seed in seeds
    }
    assert len(answers) == len(seeds)


def test_tokens_sampled_but_not_read_go_with_a_closed_stream():
    engine = Engine(FakeModel())
    first, second = engine.submit([1], GREEDY), engine.submit([2], GREEDY)
    list(first)
    second.close()
    assert list(second) == []


class Broken:
    """A mask that allows nothing, or raises."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error

    def mask(self) -> bytes:
        if self.error:
            raise self.error
        return bytes(VOCAB // 8)

    def accept(self, token: int) -> None:
        raise AssertionError("nothing was sampled")


@pytest.mark.parametrize(("mask", "said"), [(Broken(), "leave no token"), (Broken(KeyError("rule")), "rule")])
def test_a_request_that_fails_ends_alone(mask: Broken, said: str):
    engine = Engine(FakeModel())
    good, bad = engine.submit([1], GREEDY), engine.submit([2], GREEDY, mask)
    with pytest.raises((ValueError, KeyError), match=said):
        next(bad)
    assert tokens([list(good)]) == [greedy([1], 12)]
    assert engine.stats().free_blocks == engine.stats().blocks


def test_without_a_seed_every_request_draws_its_own():
    engine = Engine(FakeModel())
    answers = engine.generate([[1]] * 8, SamplingParams(max_tokens=20))
    assert len({tuple(said) for said in tokens(answers)}) > 1


def test_what_a_block_held_before_is_never_read():
    engine = Engine(FakeModel(), cache_bytes=cache_for(4))
    for prompt in ([5] * 50, [6] * 20, [5] * 33):
        assert tokens(engine.generate([prompt], GREEDY)) == [greedy(prompt, 12)]


class OnlyEven:
    """A mask that records the accepted tokens."""

    def __init__(self) -> None:
        self.accepted: list[int] = []

    def mask(self) -> bytes:
        return bytes([0b01010101] * (VOCAB // 8))

    def accept(self, token: int) -> None:
        self.accepted.append(token)


def test_masks_bind_every_token_and_hear_of_it():
    mask = OnlyEven()
    answer = [
        sampled.token
        for sampled in Engine(FakeModel(), cache_bytes=cache_for(4)).submit([1], SamplingParams(max_tokens=20), mask)
    ]
    assert all(token % 2 == 0 for token in answer)
    assert mask.accepted == answer


def test_logprobs_are_the_models_own_whatever_the_temperature():
    (answer,) = Engine(FakeModel()).generate(
        [[1, 2]], SamplingParams(temperature=5.0, seed=1, max_tokens=1, logprobs=3)
    )
    row = logits_after([1, 2]).astype(np.float64)
    truth = row - np.log(np.exp(row).sum())
    assert answer[0].logprob == pytest.approx(truth[answer[0].token], abs=1e-5)
    assert [token for token, _ in answer[0].top] == np.argsort(-truth)[:3].tolist()
    assert [value for _, value in answer[0].top] == pytest.approx(np.sort(truth)[::-1][:3].tolist(), abs=1e-5)


def test_the_old_name_of_max_batched_tokens_still_works_with_a_warning():
    model = FakeModel()
    with pytest.warns(FutureWarning, match="max_batched_tokens"):
        engine = Engine(model, step_tokens=3)
    stream = engine.submit([1] * 10, SamplingParams(max_tokens=1))
    engine.step()
    assert model.rows[-1] == 3
    stream.close()
