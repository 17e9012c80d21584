"""No client can stop the server for others: rows K1 to K9 of what was tried. Each test names its row."""

import asyncio
import json
import random
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from ossia.engine.request import Sampled, SamplingParams
from ossia.harmony.client_tools import MAX_TOOLS, toolbox
from ossia.harmony.enforce import SchemaError, enforceable_schema
from ossia.harmony.errors import InputError
from ossia.server.apis.fields.choices import merge_limited
from ossia.server.core.service import Service
from ossia.server.core.worker import UNREAD_BYTES, StepUpdate, TokenQueue, UnreadError
from ossia.server.errors import ApiError
from ossia.server.http.decoding import json_shape
from ossia.server.http.decoding.bodies import PIECE, SMALL, Bodies, BodyBuffer
from ossia.server.http.decoding.json_shape import SLICE, check_shape
from ossia.server.http.decoding.token_bound import Shares, TextBound
from ossia.server.settings import Settings
from tests.server.core.test_service import MINI, ask, text_of, with_service
from tests.support.server import Served, mini, scripted, user
from tests.support.turns import final
from tests.support.waiting import until_async

LIMITS = "context_length_exceeded"


# K1: readers that do not read


def test_K1_a_place_is_free_when_its_sampling_ends_though_none_of_it_is_read():
    async def work(service: Service) -> None:
        silent = [service.answer(ask("Count.", temperature=0, max_tokens=20)) for _ in range(2)]
        for each in silent:
            await anext(each)  # and nothing more
        assert await text_of(service, ask(temperature=0))
        assert (service.queue.running, service.queue.used) == (0, 0)
        rest = [[event async for event in each] for each in silent]
        assert all(rest), "what was sampled can still be read"

    with_service(work, Settings(max_num_seqs=2))


def test_K1_a_place_is_free_when_its_time_is_over_though_none_of_it_is_read():
    endless = dict.fromkeys(MINI.stop_tokens, -100.0)

    async def work(service: Service) -> None:
        silent = service.answer(ask("Count.", logit_bias=endless))
        await anext(silent)
        await until_async(lambda: service.queue.running == 0, "the queue is empty")
        await until_async(lambda: service.worker.stats().running == 0, "nothing runs")
        assert await text_of(service, ask(max_tokens=1, temperature=0)) is not None
        await silent.aclose()

    with_service(work, Settings(max_num_seqs=1, request_timeout=1.0))


def test_K1_unread_tokens_are_bounded_and_end_the_sampling():
    async def work() -> None:
        ended: list[bool] = []
        queue = TokenQueue([1], SamplingParams(), None)
        queue.on_end = lambda: ended.append(True)
        token = Sampled(1, -1.0, tuple((n, -1.0) for n in range(20)))
        while not ended:
            queue.deliver(StepUpdate(queue, [token] * 100, 0, False))
        assert queue.count * 20 * 100 < 2 * UNREAD_BYTES
        assert not queue._tokens
        with pytest.raises(UnreadError):
            await queue.next()

    asyncio.run(work())


def test_K1_a_reader_that_keeps_up_is_never_cut():
    async def work() -> None:
        queue = TokenQueue([1], SamplingParams(), None)
        token = Sampled(1, -1.0, tuple((n, -1.0) for n in range(20)))
        for _ in range(UNREAD_BYTES // 1000):
            queue.deliver(StepUpdate(queue, [token], 0, False))
            assert await queue.next() == token

    asyncio.run(work())


def test_K1_several_choices_wait_for_a_slow_reader():
    made = [0, 0]

    async def source(index: int) -> Any:
        for piece in range(1000):
            made[index] = piece
            yield piece

    async def work() -> None:
        pieces = merge_limited([source(0), source(1)], 2)
        await anext(pieces)
        for _ in range(50):
            await asyncio.sleep(0)
        assert sum(made) < 100
        assert len([piece async for piece in pieces]) == 1999

    asyncio.run(work())


# K2: scoring


def choices_of(served: Served, **body: Any) -> list[dict[str, Any]]:
    """OpenAI's types know no token without a probability, as an echo's first is."""
    answer = served.client.post("/v1/completions", json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()["choices"]


def test_K2_equal_prompts_are_scored_once_whatever_n():
    with mini() as served:
        body = {"prompt": ["What is 2?", "What is 2?", "Who?"], "n": 4, "echo": True, "logprobs": 2, "max_tokens": 0}
        choices = choices_of(served, **body)
        tokens = len(served.service.tokenizer.encode("What is 2?")) + len(served.service.tokenizer.encode("Who?"))
        assert served.service.worker.stats().prompt_tokens == tokens - 2
        alone = choices_of(served, prompt="Who?", echo=True, logprobs=2, max_tokens=0)[0]
    assert [choice["text"] for choice in choices] == ["What is 2?"] * 8 + ["Who?"] * 4
    assert choices[0]["logprobs"] == choices[7]["logprobs"]
    assert choices[8]["logprobs"] == alone["logprobs"]


def test_K2_an_echo_that_goes_on_has_the_offsets_and_scores_of_both():
    with mini() as served:
        body = {"prompt": "What is 2 + 2?", "max_tokens": 6, "temperature": 0, "logprobs": 1}
        both = choices_of(served, echo=True, **body)[0]
        alone = served.complete(**body)["choices"][0]
    count = len(alone["logprobs"]["tokens"])
    assert both["text"] == "What is 2 + 2?" + alone["text"]
    assert both["logprobs"]["tokens"][-count:] == alone["logprobs"]["tokens"]
    assert both["logprobs"]["token_logprobs"][-count:] == pytest.approx(alone["logprobs"]["token_logprobs"], abs=1e-4)
    assert both["logprobs"]["text_offset"][-count:] == [
        len("What is 2 + 2?") + at for at in alone["logprobs"]["text_offset"]
    ]
    assert "".join(both["logprobs"]["tokens"]) == both["text"]


def test_K2_scoring_waits_in_the_queue_like_an_answer_and_stops_when_its_reader_leaves():
    async def work(service: Service) -> None:
        running = service.answer(ask(temperature=0))
        await anext(running)
        scoring = asyncio.ensure_future(service.score([5] * 500, 1, "other"))
        await until_async(lambda: service.queue.waiting == 1, "one waits")
        await running.aclose()
        await until_async(lambda: service.queue.running == 1, "one runs")
        scoring.cancel()
        await asyncio.gather(scoring, return_exceptions=True)
        await until_async(lambda: service.queue.running == service.worker.stats().running == 0, "nothing runs")

    with_service(work, Settings(max_num_seqs=1))


def test_K2_a_prompt_as_long_as_the_context_is_scored():
    with mini() as served:
        ids = [1000 + n % 20 for n in range(served.service.context)]
        choice = choices_of(served, prompt=ids, echo=True, logprobs=0, max_tokens=0)[0]
        rows = served.service.model.logits(ids[:-1])
    last = rows[-1].astype(float)
    expected = last[ids[-1]] - last.max() - np.log(np.exp(last - last.max()).sum())
    assert len(choice["logprobs"]["tokens"]) == len(ids)
    assert choice["logprobs"]["token_logprobs"][-1] == pytest.approx(expected, abs=1e-3)


def test_K2_more_scores_than_an_answer_may_have_are_refused_before_any_is_made():
    with mini() as served:
        ids = [1000] * 4000
        body = {"prompt": [ids] * 40, "n": 16, "echo": True, "logprobs": 5, "max_tokens": 0}
        assert served.refused("/v1/completions", **body) == (400, "logprobs", "invalid_value")
        assert served.service.worker.stats().prompt_tokens == 0


# K4 and K6: what is large is refused before it is read


def text_of_size(count: int) -> bytes:
    return json.dumps({"messages": [user("a" * count)]}).encode()


def nested(inner: bytes) -> bytes:
    return b'{"messages":[{"role":"user","content":"hi"}],"x":[%b]}' % inner


@pytest.fixture(scope="module")
def server() -> Iterator[Served]:
    with mini() as served:
        yield served


def schema(value: object) -> bytes:
    form = {"type": "json_schema", "json_schema": {"name": "a", "strict": True, "schema": value}}
    return json.dumps({"messages": [user("hi")], "response_format": form}).encode()


def chat(**more: object) -> bytes:
    return json.dumps({"messages": [user("hi")], **more}).encode()


def objects(count: int) -> list[dict[str, Any]]:
    return [{"type": "object", "properties": {f"a{n}": {"type": "string"}}} for n in range(count)]


def tools(names: list[str]) -> list[dict[str, Any]]:
    return [{"type": "function", "function": {"name": name, "parameters": {"type": "object"}}} for name in names]


CHAT, RESPONSES, COMPLETIONS, MESSAGES = "/v1/chat/completions", "/v1/responses", "/v1/completions", "/v1/messages"
LARGE: dict[str, tuple[str, Callable[[], bytes], str]] = {
    "30 MB of a": (CHAT, lambda: text_of_size(30 << 20), LIMITS),
    "1 MB of a": (CHAT, lambda: text_of_size(1 << 20), LIMITS),
    "3 MB of Chinese": (CHAT, lambda: json.dumps({"messages": [user("漢字" * 500_000)]}, ensure_ascii=False).encode(), LIMITS),
    "200 KB that no token covers": (CHAT, lambda: json.dumps({"messages": [user("漢" * 70_000)]}, ensure_ascii=False).encode(), LIMITS),
    "a text to tokenize": ("/tokenize", lambda: json.dumps({"prompt": "a" * 10**6}).encode(), LIMITS),
    "a text to tokenize that no token covers": ("/tokenize", lambda: json.dumps({"prompt": "漢" * 70_000}).encode(), LIMITS),
    "a response's instructions": (RESPONSES, lambda: json.dumps({"input": "hi", "instructions": "a" * 10**6}).encode(), LIMITS),
    "a completion's prompt": (COMPLETIONS, lambda: json.dumps({"prompt": "a" * 10**6}).encode(), LIMITS),
    "500,000 messages": (CHAT, lambda: b'{"messages":[' + b'{"role":"user"},' * 500_000 + b'{"role":"user"}]}', "too_large"),
    "20,000 messages": (CHAT, lambda: json.dumps({"messages": [user("")] * 20_000}).encode(), LIMITS),
    "20,000 turns": (MESSAGES, lambda: json.dumps({"messages": [user("")] * 20_000, "max_tokens": 1}).encode(), "invalid_request_error"),
    "a million items": (RESPONSES, lambda: b'{"input":[' + b"{}," * 1_000_000 + b"{}]}", "too_large"),
    "20,000 items": (RESPONSES, lambda: json.dumps({"input": [user("")] * 20_000}).encode(), "invalid_value"),
    "9,000 items": (RESPONSES, lambda: json.dumps({"input": [user("")] * 9_000}).encode(), LIMITS),
    "oneOf of 3,000 objects": (CHAT, lambda: schema({"oneOf": objects(3000)}), "invalid_json_schema"),
    "anyOf of 3,000 objects": (CHAT, lambda: schema({"anyOf": objects(3000)}), "invalid_json_schema"),
    "an enum of 100,000": (CHAT, lambda: schema({"enum": list(range(100_000))}), "invalid_json_schema"),
    "a name of 1 MB": (CHAT, lambda: schema({"type": "object", "properties": {"k" * 10**6: {}}}), "invalid_json_schema"),
    "5,000 properties": (CHAT, lambda: schema({"type": "object", "properties": {f"k{n}": {} for n in range(5000)}}), "invalid_json_schema"),
    "8,000 tools": (CHAT, lambda: chat(tools=tools([chr(0x2000 + n) for n in range(8000)])), "invalid_value"),
    "20,000 stops": (CHAT, lambda: chat(stop=["x"] * 20_000), "invalid_value"),
    "200,000 biases": (CHAT, lambda: chat(logit_bias={str(n): 1 for n in range(200_000)}), "too_large"),
    "40,000 pairs of metadata": (RESPONSES, lambda: json.dumps({"input": "hi", "metadata": {f"k{n}": "" for n in range(40_000)}}).encode(), "invalid_value"),
    "300,000 parts": (CHAT, lambda: json.dumps({"messages": [user([{"type": "text", "text": "a"}] * 300_000)]}).encode(), "too_large"),
    "10 million arrays": (CHAT, lambda: nested(b"[]," * 10_000_000 + b"[]"), "too_large"),
    "1.6 million arrays": (CHAT, lambda: nested(b"[]," * 1_600_000 + b"[]"), "too_large"),
    "arrays 100,000 deep": (CHAT, lambda: nested(b"[" * 100_000 + b"]" * 100_000), "invalid_json"),
    "objects that name one": (CHAT, lambda: nested(b'{"a":{"b":{}}},' * 1_000_000 + b"1"), "too_large"),
    "10 million ids": (COMPLETIONS, lambda: b'{"prompt":[' + b"1," * 10_000_000 + b"1]}", "too_large"),
    "30 MB of escapes": (CHAT, lambda: b'{"messages":[{"role":"user","content":"' + b"\\u0061" * 5_000_000 + b'"}]}', "too_large"),
    "30 MB of white space": (CHAT, lambda: b'{"messages":[]' + b" " * (30 << 20) + b"}", "too_large"),
    "30 MB of digits": (CHAT, lambda: b'{"messages":[],"temperature":0.' + b"1" * (30 << 20) + b"}", "too_large"),
}  # fmt: skip


@pytest.mark.parametrize("name", LARGE)
def test_K4_K6_what_is_too_large_is_refused(server: Served, name: str, monkeypatch: pytest.MonkeyPatch):
    path, make, code = LARGE[name]

    def never(*_: object) -> Any:
        raise AssertionError("it was tokenized or compiled")

    monkeypatch.setattr(server.service.tokenizer, "encode", never)
    monkeypatch.setattr(server.service.grammars, "_started", never)
    error = server.client.post(path, content=make()).json()["error"]
    assert error.get("code", error["type"]) == code, error
    assert "too l" in str(error) or "at most" in str(error) or "than" in str(error) or code == LIMITS, error


def shape_of(body: bytes) -> tuple[int, int, int, int, int]:
    """Depth, containers, commas, names and bytes within strings: found byte by byte."""
    depth = deepest = containers = commas = names = text = 0
    inside = escaped = False
    for byte in body.decode("latin-1"):
        if inside:
            if not escaped and byte == '"':
                inside = False
                continue
            escaped = byte == "\\" and not escaped
            text += 1
        elif byte == '"':
            inside = True
            text += 1  # the quote that opens is counted as text
        elif byte in "[{":
            depth, containers = depth + 1, containers + 1
            deepest = max(deepest, depth)
        elif byte in "]}":
            depth -= 1
        commas += not inside and byte == ","
        names += not inside and byte == ":"
    return deepest, containers, commas, names, text


@pytest.mark.parametrize("size", [1, 2, 3, 7, 64, SLICE])
def test_K6_the_shape_of_json_is_found_in_slices_of_any_size(size: int):
    rng = np.random.default_rng(0)
    for _ in range(300):
        body = bytes(rng.choice(list(b'a"\\[]{},: \n'), rng.integers(1, 80)).tolist())
        scan = json_shape.Scan()
        for at in range(0, len(body), size):
            scan.read(np.frombuffer(body, np.uint8, min(size, len(body) - at), at))
        if b"\\" in body.replace(b'"', b""):  # outside of strings a backslash is no JSON
            continue
        found = (scan.deepest, scan.containers, scan.values, scan.members, scan.text)
        assert found == shape_of(body), body


def test_K6_large_bodies_that_are_good_are_read():
    text = json.dumps({"a": ['[{,:\\" é' * 50_000, [[1, 2], {"b": None}] * 10_000]}, ensure_ascii=False).encode()
    assert len(text) > 4 * SMALL
    shares = Shares([b" a", b"ab" * 10])
    check_shape(text, TextBound(shares, len(text)))
    with pytest.raises(ApiError) as refused:
        check_shape(text, TextBound(shares, 1000, 100_000))
    assert refused.value.code == LIMITS


def test_K4_no_text_has_fewer_tokens_than_its_bytes_say():
    rng, encoding = random.Random(0), MINI.tokenizer.encoding  # type: ignore[union-attr]
    shares, tokens = Shares(encoding.token_byte_values()), encoding.token_byte_values()
    for _ in range(300):
        text = b"".join(rng.choices(tokens, k=rng.randrange(1, 200))).decode("utf-8", "replace")
        assert shares.least_tokens(text) <= len(encoding.encode_ordinary(text))
        for body in (json.dumps({"a": text}), json.dumps({"a": text}, ensure_ascii=False)):
            scan = json_shape.Scan(shares)
            for at in range(0, len(body.encode()), 50):
                scan.read(np.frombuffer(body.encode()[at : at + 50], np.uint8))
            assert scan.tokens <= len(encoding.encode_ordinary(text)) + 2
    assert shares.least_tokens("漢" * 1000) == pytest.approx(3000, rel=0.7)


def test_K4_tools_whose_names_collide_keep_names_of_their_own():
    box = toolbox(tools([f"f{chr(0x2000 + n)}" for n in range(MAX_TOOLS)]))
    assert len(box.called) == MAX_TOOLS
    assert box.recipient("f\u2000") != box.recipient("f\u2001")
    with pytest.raises(InputError, match="tools"):
        toolbox(tools([str(n) for n in range(MAX_TOOLS + 1)]))


@pytest.mark.parametrize("value", [
    {"oneOf": [{"const": n} for n in range(150)]},
    {"anyOf": objects(300)},
    {"enum": list(range(5000))},
    {"type": "object", "properties": {f"k{n}": {"type": "string"} for n in range(800)}},
])  # fmt: skip
def test_K4_large_schemas_of_a_usual_size_are_read(value: dict[str, Any]):
    assert enforceable_schema(value).schema


@pytest.mark.parametrize("value", [
    {"$defs": {"a": {"oneOf": objects(2000)}}, "$ref": "#/$defs/a"},
    {"properties": {f"p{n}": {"enum": [f"v{m}" for m in range(200)]} for n in range(200)}},
    {"items": {"items": {"allOf": objects(500)}}},
    {"const": "k" * 300_000},
    {"prefixItems": [True] * 30_000},
    {"not": {"enum": [[n] for n in range(40_000)]}},
])  # fmt: skip
def test_K4_schemas_that_would_take_long_are_refused_wherever_it_is_that_they_are_large(value: dict[str, Any]):
    with pytest.raises(SchemaError, match="too large"):
        enforceable_schema(value)


# K5: bodies in flight


def test_K5_a_client_holds_half_of_the_bytes_at_most_and_another_still_finds_room():
    async def work() -> None:
        bodies = Bodies(100 << 20, TextBound(Shares([]), 1 << 20))
        greedy = [bodies.lease("greedy") for _ in range(10)]
        for lease in greedy[:5]:
            lease.add(10 << 20)
        with pytest.raises(ApiError) as refused:
            greedy[5].add(10 << 20)
        assert (refused.value.status, refused.value.code) == (429, "rate_limit_exceeded")
        other = bodies.lease("other")
        other.add(20 << 20)
        greedy[6].add(SMALL)  # small ones are always read
        for lease in (*greedy, other, other):
            lease.release()
        assert (bodies.used, dict(bodies.used_by)) == (0, {})
        bodies.close()

    asyncio.run(work())


def test_K5_a_body_is_collected_in_pieces_of_bounded_number_and_size():
    rng, pieces, sent = random.Random(0), BodyBuffer(), bytearray()
    for _ in range(5000):
        piece = rng.randbytes(rng.choice((1, 100, 5000)))
        pieces.add(piece)
        sent += piece
    assert pieces.joined() == bytes(sent)
    assert pieces.size == len(sent)
    assert len(pieces.whole) <= len(sent) // PIECE
    assert max(map(len, pieces.whole)) < PIECE + 5000


def test_K5_a_body_counts_until_its_answer_begins():
    seen: list[int] = []
    with scripted(final("ok")) as served:
        bodies = body_budget(served)
        begin = served.service.begin_sampling

        async def watched(*args: Any) -> Any:
            seen.append(bodies.used)
            return await begin(*args)

        served.service.begin_sampling = watched  # type: ignore[method-assign]
        assert served.message(content="hi", metadata={"x": "y" * 200_000})["content"] == "ok"
        assert seen == [pytest.approx(200_000, abs=1000)]
        assert bodies.used == 0


def body_budget(served: Served) -> Bodies:
    app: Any = served.client.app
    layer = app.middleware_stack or app.build_middleware_stack()
    while not isinstance(found := getattr(layer, "bodies", None), Bodies):
        layer = layer.app
    return found
