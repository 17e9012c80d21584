"""The queue under load: no client fills it, and what it could never hold is refused at once. Rows K8 and K9."""

import asyncio
from typing import Any

import pytest

from ossia.server.apis.fields.choices import gather_limited
from ossia.server.core.admission import AdmissionQueue, FullError
from ossia.server.settings import Settings
from tests.support.server import mini, refusal, scripted, user
from tests.support.turns import final

CHAT, RESPONSES, COMPLETIONS, MESSAGES = "/v1/chat/completions", "/v1/responses", "/v1/completions", "/v1/messages"


def test_K8_one_client_cannot_fill_the_queue():
    async def work() -> None:
        line = AdmissionQueue(10_000, 8, 64)
        running = [await line.enter("greedy", 1, 9) for _ in range(7)]
        waits: list[asyncio.Future[Any]] = []
        for _ in range(33):  # half of them, and one
            waits.append(asyncio.ensure_future(line.enter("greedy", 1, 9)))
            await asyncio.sleep(0)
        with pytest.raises(FullError):
            line.refuse_when_full("greedy", 1)
        others: list[Any] = [await line.enter("other", 1, 9)]  # of the eight places one was kept
        others += [asyncio.ensure_future(line.enter("other", 1, 9)) for _ in range(2)]
        await asyncio.sleep(0)
        for place in running[:4]:  # clients take turns
            line.leave(place, 1, 1.0)
            await asyncio.sleep(0)
        assert all(other.done() for other in others[1:])
        waits += others[1:]
        for each in waits:
            each.cancel()
        await asyncio.gather(*waits, return_exceptions=True)

    asyncio.run(work())


def test_K8_many_greedy_clients_leave_a_place_too():
    async def work() -> None:
        line = AdmissionQueue(10_000, 1, 64)
        await line.enter("first", 1, 9)
        waits = []
        for client in range(20):
            waits += [asyncio.ensure_future(line.enter(str(client), 1, 9)) for _ in range(64)]
            await asyncio.sleep(0)
        assert line.waiting <= 64
        assert [len(line.clients[str(client)]) for client in range(5)] == [33, 16, 8, 4, 2]
        for each in waits:
            each.cancel()
        await asyncio.gather(*waits, return_exceptions=True)

    asyncio.run(work())


def test_K8_one_request_of_many_answers_does_not_hold_all_places():
    body = {"prompt": ["a"] * 16, "n": 2, "max_tokens": 4, "temperature": 0}
    with mini(Settings(max_num_seqs=16, max_queued=16)) as served:
        choices = served.complete(**body)["choices"]
        assert len(choices) == 32
        assert served.service.parallel_choices == 14 + 4
        assert len({choice["text"] for choice in choices}) == 1


def test_K8_a_few_at_a_time():
    most = now = 0

    async def one(number: int) -> int:
        nonlocal most, now
        now += 1
        most = max(most, now)
        await asyncio.sleep(0)
        now -= 1
        return number

    assert asyncio.run(gather_limited([one(number) for number in range(20)], 3)) == list(range(20))
    assert most == 3


@pytest.mark.parametrize(("path", "body", "param"), [
    (COMPLETIONS, {"prompt": ["a"] * 64, "n": 16}, "n"),
    (COMPLETIONS, {"prompt": ["a"] * 9}, "n"),
    (CHAT, {"messages": [user("hi")], "n": 9}, "n"),
])  # fmt: skip
def test_K9_more_answers_than_the_queue_could_ever_hold_are_a_400_that_names_the_limits(
    path: str, body: dict[str, Any], param: str
):
    with scripted(settings=Settings(max_num_seqs=4, max_queued=4)) as served:
        answer = served.client.post(path, json=body)
        assert refusal(answer) == (400, param, "invalid_value")
        assert "--max-num-seqs is 4" in answer.json()["error"]["message"]
        assert "--max-queued 4" in answer.json()["error"]["message"]


def test_K9_as_many_as_the_queue_holds_are_answered():
    turns = [final("ok")] * 8
    with scripted(*turns, settings=Settings(max_num_seqs=4, max_queued=4)) as served:
        assert [choice["message"]["content"] for choice in served.chat(n=8)["choices"]] == ["ok"] * 8
