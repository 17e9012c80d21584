"""The service under load: who may run, who waits, what becomes of those who leave, and of a broken engine."""

import asyncio
import weakref
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from ossia.chat import Delta, Done, TurnOptions
from ossia.engine.engine import Engine
from ossia.engine.request import SamplingParams
from ossia.harmony.messages import user
from ossia.loading import load
from ossia.server.core.admission import AdmissionQueue, FullError, Ticket
from ossia.server.core.request import AnswerRequest, conversation
from ossia.server.core.service import Service, names_of
from ossia.server.errors import ApiError
from ossia.server.settings import Settings
from tests.support.engine import ScriptedEngine
from tests.support.server import refusal, scripted
from tests.support.turns import final
from tests.support.waiting import until, until_async

MINI = load()


def ask(text: str = "What is 17 + 25?", client: str = "", **params: Any) -> AnswerRequest:
    how = TurnOptions(SamplingParams(stop_tokens=MINI.stop_tokens, **params))
    return AnswerRequest(conversation("medium", [user(text)]), how, client=client)


def with_service(work: Callable[[Service], Awaitable[None]], settings: Settings | None = None) -> None:
    async def run() -> None:
        service = Service(MINI, settings)
        service.start()
        try:
            await work(service)
        finally:
            await service.close()

    asyncio.run(run())


async def text_of(service: Service, wanted: AnswerRequest) -> str:
    return "".join([event.text async for event in service.answer(wanted) if isinstance(event, Delta)])


def test_many_at_once_say_what_each_would_alone():
    async def work(service: Service) -> None:
        asks = [ask(f"What is {n} + {n}?", temperature=0) for n in range(11, 23)]
        alone = [await text_of(service, each) for each in asks]
        assert await asyncio.gather(*[text_of(service, each) for each in asks]) == alone
        assert str(22) in alone[0]

    with_service(work)


def test_K1_a_pause_gives_the_memory_of_past_answers_back_and_the_next_answer_is_the_same(
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr("ossia.server.core.worker.RELEASE_SECONDS", 0.02)
    released: list[int] = []

    class Watched(Engine):
        def release_memory(self) -> None:
            released.append(self.stats().running)
            super().release_memory()

    async def run() -> None:
        service = Service(MINI, make_engine=lambda: Watched(MINI.transformer))
        service.start()
        try:
            wanted = ask(temperature=0)
            first = await text_of(service, wanted)
            await until_async(lambda: bool(released), "memory is given back")
            count = len(released)
            assert await text_of(service, wanted) == first
            await until_async(lambda: len(released) > count, "memory is given back again")
        finally:
            await service.close()

    asyncio.run(run())
    assert not any(released)


def test_who_leaves_frees_the_cache():
    async def work(service: Service) -> None:
        answers = [service.answer(ask(temperature=0)) for _ in range(4)]
        for answer in answers:
            await anext(answer)
        assert service.worker.stats().running == 4
        for answer in answers:
            await answer.aclose()
        await until_async(
            lambda: service.worker.stats().free_blocks == service.worker.stats().blocks, "all blocks are free"
        )
        assert service.queue.running == service.queue.used == 0

    with_service(work)


def test_a_task_that_is_cancelled_in_the_queue_or_while_it_runs_leaves_nothing():
    async def work(service: Service) -> None:
        tasks = [asyncio.ensure_future(text_of(service, ask())) for _ in range(6)]
        await until_async(lambda: service.queue.running == 2 and service.queue.waiting == 4, "two run and four wait")
        for task in tasks[1:]:
            task.cancel()
        assert await tasks[0]
        await asyncio.gather(*tasks, return_exceptions=True)
        await until_async(
            lambda: service.queue.running == service.queue.waiting == service.worker.stats().running == 0,
            "nothing runs",
        )

    with_service(work, Settings(max_num_seqs=2))


def test_an_answer_is_cut_when_its_time_is_over():
    async def work(service: Service) -> None:
        await text_of(service, ask(max_tokens=1))  # the kernels are ready
        events = [event async for event in service.answer(ask("Count.", logit_bias={1016: -100.0}))]
        assert isinstance(events[-1], Done)
        assert events[-1].finish == "length"

    with_service(work, Settings(request_timeout=0.2))


def test_one_that_waits_too_long_is_told_to_come_back():
    with scripted(
        final("ok"), held=True, settings=Settings(max_num_seqs=1, queue_timeout=0.05, request_timeout=0.5)
    ) as served:
        answer = served.client.post(
            "/v1/chat/completions", json={"n": 2, "messages": [{"role": "user", "content": "hi"}]}
        )
    assert refusal(answer) == (429, None, "rate_limit_exceeded")
    assert int(answer.headers["retry-after"]) >= 1


def test_a_full_queue_refuses_at_once():
    async def work() -> None:
        queue = AdmissionQueue(1000, 1, 1)
        first = await queue.enter("a", 10, 9)
        waits = asyncio.ensure_future(queue.enter("b", 10, 9))
        await asyncio.sleep(0)
        with pytest.raises(FullError) as refused:
            await queue.enter("c", 10, 9)
        assert refused.value.seconds >= 1
        queue.leave(first, 5, 1.0)
        assert (await waits).running

    asyncio.run(work())


def order_of(queue: AdmissionQueue, wanted: list[tuple[str, int]]) -> list[str]:
    """The order in which these clients are let in, one at a time."""

    async def work() -> list[str]:
        order: list[str] = []
        first = await queue.enter("first", 1, 9)

        async def enter(client: str, tokens: int) -> Ticket:
            place = await queue.enter(client, tokens, 9)
            order.append(client)
            return place

        tasks = []
        for client, tokens in wanted:
            tasks.append(asyncio.ensure_future(enter(client, tokens)))
            await asyncio.sleep(0)
        queue.leave(first, 1, 1.0)
        while len(order) < len(wanted):
            await asyncio.sleep(0)
            for task in [task for task in tasks if task.done()]:
                queue.leave(task.result(), 1, 1.0)
                tasks.remove(task)
        return order

    return asyncio.run(work())


def test_clients_take_turns():
    many = [("greedy", 1)] * 4 + [("modest", 1), ("shy", 1)]
    assert order_of(AdmissionQueue(1000, 1, 100), many) == ["greedy", "modest", "shy", "greedy", "greedy", "greedy"]


def test_a_large_one_is_not_passed_by_for_ever():
    assert order_of(AdmissionQueue(100, 10, 100), [("large", 100), ("small", 1)]) == ["large", "small"]


def test_room_in_the_cache_decides_who_runs():
    async def work() -> None:
        queue = AdmissionQueue(100, 10, 10)
        a, _ = await queue.enter("a", 60, 9), await queue.enter("a", 30, 9)
        waits = asyncio.ensure_future(queue.enter("a", 20, 9))
        await asyncio.sleep(0.01)
        assert (queue.running, queue.waiting, queue.used) == (2, 1, 90)
        queue.leave(a, 60, 1.0)
        await waits
        assert (queue.running, queue.waiting, queue.used) == (2, 0, 50)

    asyncio.run(work())


def test_what_answers_usually_take_is_learned():
    queue = AdmissionQueue(10_000, 10, 10)
    before = queue.tokens_needed(100, None, 4000)
    for _ in range(200):
        queue.running, queue.used = 1, 1
        queue.leave(Ticket("a", 1, admitted=None), 1000, 1.0)  # type: ignore[arg-type]
    assert before < queue.tokens_needed(100, None, 4000) == pytest.approx(2100, rel=0.01)
    assert queue.tokens_needed(100, 50, 4000) == 150
    assert queue.tokens_needed(3999, None, 4000) == 4000


def test_a_step_that_fails_costs_its_own_answers_and_no_more():
    broken = ScriptedEngine([final("lost")], fail=MemoryError("no memory"))
    with scripted(engines=[broken, ScriptedEngine([final("ok")])]) as served:
        assert served.refused(messages=[{"role": "user", "content": "hi"}]) == (500, None, "engine_failed")
        assert served.message()["content"] == "ok"
        assert served.client.get("/health").json()["status"] == "ok"


def test_a_server_whose_engine_always_fails_says_that_it_is_unhealthy():
    engines = [ScriptedEngine([final("lost")], fail=MemoryError("no memory")) for _ in range(4)]
    with scripted(engines=engines) as served:
        for _ in range(3):
            assert served.refused(messages=[{"role": "user", "content": "hi"}])[0] == 500
        health = served.client.get("/health")
        assert (health.status_code, health.json()["status"]) == (503, "unhealthy")
        assert served.refused(messages=[{"role": "user", "content": "hi"}]) == (503, None, "engine_failed")


def test_the_memory_of_a_broken_engine_is_free_before_a_fresh_one_is_made():
    made: list[weakref.ref[Engine]] = []
    alive: list[bool] = []

    def fail(_: object) -> Any:
        raise MemoryError("no memory")

    def make() -> Engine:
        alive.append(any(each() for each in made))
        engine = MINI.engine()
        if not made:
            engine._runner.forward = fail  # type: ignore[method-assign]
        made.append(weakref.ref(engine))
        return engine

    async def work() -> None:
        service = Service(MINI, make_engine=make)
        service.start()
        with pytest.raises(ApiError) as failed:
            await text_of(service, ask(temperature=0))
        assert (failed.value.status, failed.value.code) == (500, "engine_failed")
        assert "42" in await text_of(service, ask(temperature=0))
        await service.close()

    asyncio.run(work())
    assert alive == [False, False]


def test_an_engine_that_fails_in_a_stream_says_so_in_the_stream():
    script = ScriptedEngine([final("a long answer")], fail=MemoryError("no memory"), fail_at=12)
    with scripted(engines=[script, ScriptedEngine([])]) as served:
        body = {"stream": True, "messages": [{"role": "user", "content": "hi"}]}
        text = served.client.post("/v1/chat/completions", json=body).text
    assert '"code":"engine_failed"' in text.rstrip().split("\n\n")[-1]


def test_a_server_that_stops_finishes_what_it_began_and_refuses_the_rest():
    async def work(service: Service) -> None:
        under_way = asyncio.ensure_future(text_of(service, ask(temperature=0)))
        await until_async(lambda: service.queue.running == 1, "one runs")
        drained = asyncio.ensure_future(service.drain(20))
        await asyncio.sleep(0)
        with pytest.raises(ApiError) as refused:
            await text_of(service, ask())
        assert (refused.value.status, refused.value.code) == (503, "stopping")
        assert service.state == "draining"
        assert await drained
        assert "42" in await under_way

    with_service(work)


def test_answers_that_take_too_long_do_not_hold_up_the_end():
    async def work(service: Service) -> None:
        answer = service.answer(ask())
        await anext(answer)
        assert not await service.drain(0.05)
        await answer.aclose()

    with_service(work)


def test_a_server_that_is_closed_tells_who_still_waits():
    async def work(service: Service) -> None:
        answers = [asyncio.ensure_future(text_of(service, ask())) for _ in range(3)]
        await until_async(lambda: service.queue.running == 1 and service.queue.waiting == 2, "one runs and two wait")
        await service.close()
        for answer in answers:
            with pytest.raises(ApiError) as told:
                await answer
            assert (told.value.status, told.value.code) == (503, "stopping")
        assert service.queue.running == service.queue.used == 0

    with_service(work, Settings(max_num_seqs=1))


def test_a_bias_outside_the_vocabulary_is_refused_and_harms_no_other():
    async def work(service: Service) -> None:
        with pytest.raises(ApiError) as refused:
            await text_of(service, ask(logit_bias={999999: 1.0}))
        assert refused.value.status == 400
        assert await text_of(service, ask(temperature=0))

    with_service(work)


@pytest.mark.parametrize(
    ("model", "names"),
    [
        ("ossia-mini", ("ossia-mini",)),
        ("openai/gpt-oss-20b", ("openai/gpt-oss-20b", "gpt-oss-20b", "gpt-oss:20b")),
        ("/data/models/gpt-oss-120b", ("gpt-oss-120b", "gpt-oss:120b")),
        ("./tuned/", ("tuned",)),
    ],
)
def test_a_model_has_the_names_that_clients_ask_for(model: str, names: tuple[str, ...]):
    assert names_of(model) == names


def test_a_prompt_too_long_is_refused_before_it_waits():
    async def work(service: Service) -> None:
        with pytest.raises(ApiError) as refused:
            await text_of(service, ask("x " * 5000))
        assert (refused.value.status, refused.value.code) == (400, "context_length_exceeded")

    with_service(work)


def test_a_response_in_the_background_that_could_not_even_wait_is_refused_at_once():
    with scripted(final("ok"), held=True, settings=Settings(max_num_seqs=1, max_queued=1)) as served:
        answers = [served.client.post("/v1/responses", json={"input": "hi", "background": True}) for _ in range(2)]
        assert [answer.json()["status"] for answer in answers] == ["queued", "queued"]
        until(lambda: served.service.queue.waiting == 1, "the second response waits")
        refused = served.client.post("/v1/responses", json={"input": "hi", "background": True})
    assert refusal(refused) == (429, None, "rate_limit_exceeded")
    assert int(refused.headers["retry-after"]) >= 1
