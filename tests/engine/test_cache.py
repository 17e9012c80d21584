"""What the cache keeps of one request for the next: full-attention blocks, window snapshots, and the byte limit."""

from itertools import count

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ossia.engine.blocks import BlockPool
from ossia.engine.cache import PagedCache
from ossia.engine.engine import Engine
from ossia.engine.request import ContextError, SamplingParams
from ossia.kernels.ops import BLOCK, CacheBytes
from tests.support.fake_model import BLOCK_BYTES, BOTH_KINDS, VOCAB, WINDOW, FakeModel, cache_for, config, stopped_clock

SAID = 12
GREEDY = SamplingParams(temperature=0, max_tokens=SAID)
SYSTEM = [i * 7 % VOCAB for i in range(60)]


def ask(
    engine: Engine, model: FakeModel, prompt: list[int], params: SamplingParams = GREEDY
) -> tuple[list[int], int, int]:
    """The answer, the number of computed rows, and the number of cached prompt tokens."""
    before = sum(model.rows)
    stream = engine.submit(prompt, params)
    said = [sampled.token for sampled in stream]
    assert said == model.greedy(prompt, len(said))
    return said, sum(model.rows) - before, stream.cached_tokens


def whole(tokens: int) -> int:
    return tokens // BLOCK * BLOCK


def assert_nothing_is_held(engine: Engine) -> None:
    stats, cache = engine.stats(), engine._cache
    assert (stats.running, stats.waiting, stats.free_blocks) == (0, 0, stats.blocks)
    assert stats.idle_bytes <= cache.prefix_bytes
    for pool in (cache.full, cache.window):
        assert not pool._holders
        assert set(pool._kept.values()) == set(pool._idle) == set(pool._keys)
        assert sorted([*pool._free, *pool._idle]) == list(range(pool._untouched))


def test_an_agents_next_step_computes_only_what_is_new():
    model = FakeModel()
    engine = Engine(model, speculate=False)
    prompt = SYSTEM[:40]
    said, _, cached = ask(engine, model, prompt)
    assert cached == 0
    new = [5, 6, 7]
    _, rows, cached = ask(engine, model, [*prompt, *said, *new])
    assert cached == whole(40 + SAID - 1), "all whole blocks of the prompt and of the answer"
    assert rows == 40 + SAID + len(new) - cached + SAID - 1
    assert engine.stats().cached_tokens == cached


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(st.integers(1, 100), st.booleans()), min_size=1, max_size=9), st.integers(1, 30))
def test_memory_that_is_released_is_that_of_free_blocks_alone(asked: list[tuple[int, bool]], blocks: int):
    model, plain = FakeModel(), FakeModel()
    cache = cache_for(20)
    releasing, other = (
        Engine(each, cache_bytes=cache, prefix_bytes=blocks * BLOCK_BYTES, speculate=False) for each in (model, plain)
    )
    for length, release in asked:
        if release:
            releasing.release_memory()
        prompt = (SYSTEM * 2)[:length]
        assert ask(releasing, model, prompt) == ask(other, plain, prompt)
    pools = [releasing._cache.full, releasing._cache.window]
    releasing.release_memory()
    assert [pool.discard() for pool in pools] == [[], []], "none is given back twice"


@settings(deadline=None, max_examples=60)
@given(st.lists(st.integers(1, 100), min_size=1, max_size=5), st.integers(1, 30))
def test_C5_written_is_what_an_equal_prompt_finds_next(lengths: list[int], said: int):
    """Cached plus written tokens are what the next equal prompt finds, whatever came before."""
    model = FakeModel()
    engine = Engine(model, speculate=False)
    params = SamplingParams(temperature=0, max_tokens=said)
    for length in lengths:
        first, second = (engine.submit(SYSTEM[:length] * 2, params) for _ in range(2))
        for stream in (first, second):
            list(stream)
        assert first.cached_tokens + first.written_tokens == second.cached_tokens == whole(2 * min(length, 60) - 1)
        assert second.written_tokens == 0


@pytest.mark.parametrize("prefix_blocks", [0, 1, 2, 3, 4, 6, 8, 12])
@pytest.mark.parametrize("length", [5, 17, 33, 60])
@pytest.mark.parametrize("said", [1, 20, 60])
def test_C5_nothing_is_said_to_be_written_that_is_not_kept(prefix_blocks: int, length: int, said: int):
    model = FakeModel()
    engine = Engine(model, speculate=False, prefix_bytes=prefix_blocks * BLOCK_BYTES)
    params = SamplingParams(temperature=0, max_tokens=said)
    first = engine.submit(SYSTEM[:length], params)
    list(first)
    second = engine.submit(SYSTEM[:length], params)
    list(second)
    assert first.written_tokens <= second.cached_tokens
    if not prefix_blocks:
        assert first.written_tokens == second.cached_tokens == 0


def test_the_same_prompt_again_computes_its_last_block():
    model = FakeModel()
    engine = Engine(model, speculate=False)
    for length in (1, 16, 17, 48, 64):
        prompt = SYSTEM[:length] if length < 60 else [3] * length
        ask(engine, model, prompt)
        _, rows, cached = ask(engine, model, prompt)
        assert cached == whole(length - 1)
        assert rows == length - cached + SAID - 1


def test_when_an_answer_is_left_out_the_prompt_before_it_is_still_there():
    """The window has moved on, but its snapshot is kept."""
    model = FakeModel()
    engine = Engine(model)
    long = SamplingParams(temperature=0, max_tokens=100)
    ask(engine, model, SYSTEM, long)
    assert ask(engine, model, [*SYSTEM, 1, 2, 3])[2] == whole(len(SYSTEM) - 1)


def test_the_third_request_that_shares_a_beginning_finds_it():
    """The first does not know where others will diverge; the second leaves a snapshot there."""
    model = FakeModel()
    engine = Engine(model)
    cached = [ask(engine, model, [*SYSTEM, *[tail] * 50])[2] for tail in range(4)]
    assert cached == [0, 0, whole(len(SYSTEM)), whole(len(SYSTEM))]


def test_requests_that_come_together_compute_a_common_prompt_once():
    model = FakeModel(config(2048))
    engine = Engine(model, max_batched_tokens=64)
    streams = [engine.submit(SYSTEM, GREEDY) for _ in range(8)]
    assert [[sampled.token for sampled in stream] for stream in streams] == [model.greedy(SYSTEM, SAID)] * 8
    assert [stream.cached_tokens for stream in streams] == [0, *[whole(len(SYSTEM) - 1)] * 7]
    assert engine.stats().prompt_tokens - engine.stats().cached_tokens == len(SYSTEM) + 7 * (60 - 48)


def test_running_requests_share_the_blocks_of_their_beginning():
    model = FakeModel(config(2048))
    engine = Engine(model, cache_bytes=cache_for(24))
    prompt = [i % 5 for i in range(200)]
    ask(engine, model, prompt)
    streams = [engine.submit([*prompt, tail], GREEDY) for tail in range(4)]
    for stream in streams:
        next(stream)
    assert engine.stats().running == 4, "four of 14 blocks each would not fit into 24"
    assert engine.stats().preemptions == 0


def test_without_bytes_for_it_nothing_is_kept():
    model = FakeModel()
    engine = Engine(model, prefix_bytes=0)
    streams = [engine.submit(SYSTEM, GREEDY) for _ in range(2)]
    assert [len(list(stream)) for stream in streams] == [SAID, SAID]
    assert ask(engine, model, SYSTEM)[2] == 0
    assert engine.stats().idle_blocks == 0
    assert_nothing_is_held(engine)


def test_what_is_kept_stays_within_its_bytes_and_the_oldest_goes_first():
    model = FakeModel()
    engine = Engine(model, prefix_bytes=17 * BLOCK_BYTES)
    first, second, third = ([tail] * 70 for tail in range(3))
    for prompt in (first, second, first, third):  # each leaves 5 full-attention and 3 window blocks
        ask(engine, model, prompt)
        assert engine.stats().idle_bytes <= 17 * BLOCK_BYTES
    assert ask(engine, model, first)[2] == 64
    assert ask(engine, model, second)[2] == 0


def test_a_preempted_request_resumes_from_its_cached_blocks():
    """If two requests do not fit, one is preempted. Its cached blocks are not computed again, if no other request took
    them.
    """
    rows = {}
    for prefix_bytes in (0, 1 << 30):
        model = FakeModel()
        engine = Engine(model, cache_bytes=cache_for(8), prefix_bytes=prefix_bytes, speculate=False)
        streams = [engine.submit([tail] * 40, SamplingParams(temperature=0, max_tokens=50)) for tail in range(2)]
        assert [[each.token for each in stream] for stream in streams] == [model.greedy([t] * 40, 50) for t in range(2)]
        assert engine.stats().preemptions == 1
        rows[prefix_bytes] = sum(model.rows)
    assert rows[0] == 2 * (40 + 49) + 64, "it gave way where a fifth block was wanted"
    assert rows[1 << 30] <= rows[0] - whole(40)


def test_a_long_sequence_holds_few_blocks_of_its_windows():
    engine = Engine(FakeModel(config(4096)), cache_bytes=None, speculate=False)
    stream = engine.submit([1] * 2000, GREEDY)
    next(stream)
    cache = engine._cache
    assert cache.full.count - cache.full.free == 2000 // BLOCK
    assert cache.window.count - cache.window.free == WINDOW // BLOCK + 1


def test_the_whole_context_works():
    context = 131_072
    model = FakeModel(config(context, window=128))
    engine = Engine(model, max_batched_tokens=8192)
    prompt = [i * i % VOCAB for i in range(context - 2)]
    said = [sampled.token for sampled in engine.submit(prompt, SamplingParams(temperature=0))]
    assert said == model.greedy(prompt, 2)
    with pytest.raises(ContextError, match=r"131072 tokens.*context 131072"):
        engine.submit([0] * context, GREEDY)
    assert ask(engine, model, prompt, SamplingParams(temperature=0))[2] == whole(context - 3)


@settings(max_examples=60, deadline=None)
@given(
    layers=st.sampled_from([(100, 100), (0, 100), (100, 0), (300, 100)]),
    limit=st.integers(400, 100_000),
    window=st.integers(1, 200),
    step=st.integers(1, 600),
)
def test_the_pools_fit_into_their_bytes_and_hold_a_sequence(
    layers: tuple[int, int], limit: int, window: int, step: int
):
    cache = PagedCache.sized(CacheBytes(*layers), window, 4096, step, limit, 0)
    used = cache.full.count * layers[0] + cache.window.count * layers[1]
    assert used <= limit
    assert used > limit - 3 * sum(layers) or layers[0] == 0
    assert cache.tokens >= BLOCK
    for tokens in (1, BLOCK, min(cache.tokens, 100_000)):
        assert cache.full.max_blocks(tokens) <= cache.full.count or layers[0] == 0
        assert cache.window.max_blocks(tokens) <= cache.window.count or layers[1] == 0


@pytest.mark.parametrize(("given", "tokens"), [(None, 4096), (cache_for(3), 48), (cache_for(3) + BLOCK_BYTES, 48)])
def test_without_a_limit_one_whole_context_fits(given: int | None, tokens: int):
    assert PagedCache.sized(BOTH_KINDS, 128, 4096, 512, given, 0).tokens == tokens


def test_a_cache_without_room_for_a_block_is_refused_by_name():
    with pytest.raises(ValueError, match="cache_bytes is 199: one block takes 200"):
        Engine(FakeModel(), cache_bytes=199)


@pytest.mark.parametrize(
    "layers", [CacheBytes(BLOCK_BYTES, 0), CacheBytes(0, BLOCK_BYTES)], ids=["all full", "all sliding"]
)
@pytest.mark.parametrize("blocks", [4, 8])
def test_a_model_may_have_layers_of_one_kind_only(layers: CacheBytes, blocks: int):
    model = FakeModel(cache_bytes=layers)
    engine = Engine(model, cache_bytes=blocks * BLOCK_BYTES)
    for prompt in (SYSTEM[:40], SYSTEM[:45], [*SYSTEM[:20], 9, 9], SYSTEM[:40]):
        ask(engine, model, prompt)
    assert engine.stats().cached_tokens > 0
    assert_nothing_is_held(engine)


@settings(max_examples=200, deadline=None)
@given(window=st.integers(1, 100), blocks=st.integers(0, 20))
def test_what_a_sequence_lets_go_of_is_what_no_later_token_sees(window: int, blocks: int):
    pool = BlockPool(100, 1, window, count())
    seen = {max(0, position - window + 1) // BLOCK for position in range(blocks * BLOCK, (blocks + 3) * BLOCK)}
    assert pool.first_seen(blocks) == min(seen)
    assert pool.max_blocks(10_000) == max(n + 1 - pool.first_seen(n) for n in range(600))


def test_used_blocks_are_taken_again_before_untouched_ones():
    pool = BlockPool(100, 1, 0, count())
    for _ in range(5):
        for block in pool.take(3):
            pool.drop(block)
    assert sorted(pool.take(3)) == [0, 1, 2]


def test_of_idle_blocks_the_oldest_is_taken_and_no_longer_found():
    pool = BlockPool(2, 1, 0, count())
    first, second = pool.take(2)
    pool.keep(first, b"first")
    pool.keep(second, b"second")
    pool.drop(first)
    pool.drop(second)
    assert (pool.free, pool.idle) == (2, 2)
    assert pool.take(1) == [first]
    assert (pool.find(b"first"), pool.find(b"second")) == (None, second)


PIECES = st.lists(
    st.sampled_from([SYSTEM[:20], SYSTEM[:33], SYSTEM, [1, 2, 3] * 8, [4], [5] * 17]), min_size=1, max_size=3
)
PROMPT = PIECES.map(lambda pieces: [token for piece in pieces for token in piece][:120])


@settings(max_examples=150, deadline=None)
@given(
    rounds=st.lists(st.lists(st.tuples(PROMPT, st.integers(0, 30)), min_size=1, max_size=5), min_size=1, max_size=3),
    blocks=st.integers(10, 60),
    prefix=st.sampled_from([0, 5 * BLOCK_BYTES, 30 * BLOCK_BYTES, 1 << 30]),
    budget=st.integers(1, 200),
    speculate=st.booleans(),
    repeats=st.sampled_from([0.0, 6.0, 20.0]),
    window=st.sampled_from([2, 16, 17, 24, 60, 500]),
    layers=st.sampled_from([(100, 100), (100, 100), (0, 100), (100, 0)]),
    seed=st.none() | st.integers(0, 9),
)
def test_answers_depend_on_nothing_but_the_prompt(
    rounds: list[list[tuple[list[int], int]]], blocks: int, prefix: int, budget: int, speculate: bool, repeats: float,
    window: int, layers: tuple[int, int], seed: int | None,
):  # fmt: skip
    """Shared, chunked, preempted, cached, drafted, or closed after some tokens: the answer is the naive loop's."""
    model = FakeModel(config(window=window), repeats=repeats, cache_bytes=CacheBytes(*layers))
    params = SamplingParams(temperature=0 if seed is None else 1.0, seed=seed, max_tokens=25)
    naive = Engine(model, prefix_bytes=0, speculate=False)
    with stopped_clock():
        engine = Engine(
            model, cache_bytes=blocks * sum(layers), prefix_bytes=prefix, max_batched_tokens=budget, speculate=speculate
        )
        for asked in rounds:
            streams = [engine.submit(prompt, params) for prompt, _ in asked]
            for (prompt, most), stream in zip(asked, streams):
                said = [sampled.token for sampled, _ in zip(stream, range(most))]
                stream.close()
                truth = (
                    model.greedy(prompt, 25) if seed is None else [s.token for s in naive.generate([prompt], params)[0]]
                )
                assert said == truth[:most]
    assert_nothing_is_held(engine)
    assert_nothing_is_held(naive)
