"""Data: three kinds of files and generators; what is bad is named by its line; packed sequences do not see each other."""

import json
import random
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from ossia.harmony.messages import Message, assistant, developer, system, user
from ossia.harmony.render import render
from ossia.kernels.reference import ReferenceOps
from ossia.train.data.batches import BatchBuckets, by_length, pack, within
from ossia.train.data.chat_rows import read_line
from ossia.train.data.sequences import NONE, Conversation, Sequence, sequences
from ossia.train.data.sources import DataError, SequenceStream, from_harmony, open_stream
from ossia.train.model.trainable import TrainableModel
from ossia.train.recipe import DataSource
from tests.support.training import CONFIG, chatter
from tests.support.vocabularies import small

WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Tell it.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}


def called(number: int, city: str) -> dict:
    return {
        "id": f"c{number}",
        "type": "function",
        "function": {"name": "weather", "arguments": json.dumps({"city": city})},
    }


LINE = {
    "messages": [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Weather in Oslo and Rome?"},
        {"role": "assistant", "reasoning": "Two calls.", "tool_calls": [called(1, "Oslo"), called(2, "Rome")]},
        {"role": "tool", "tool_call_id": "c2", "content": "hot"},
        {"role": "tool", "tool_call_id": "c1", "content": "cold"},
        {"role": "assistant", "content": "Cold and hot."},
    ],
    "tools": [WEATHER],
    "reasoning_effort": "low",
    "current_date": "2025-01-02",
}


def opened(
    folder: Path, source: DataSource, *, skip_bad: bool = False, max_seq_len: int = 600, everything: bool = False
) -> SequenceStream:
    return open_stream(
        [source], small(), seed=1, max_seq_len=max_seq_len, everything=everything, skip_bad=skip_bad, near=folder
    )


def written(folder: Path, *lines: str) -> DataSource:
    (folder / "data.jsonl").write_text("".join(line + "\n" for line in lines))
    return DataSource(jsonl="data.jsonl")


def user_and(assistant_: dict, **more: object) -> str:
    return json.dumps({"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", **assistant_}], **more})


def test_a_line_with_tools_and_reasoning_reads_as_the_harmony_that_inference_would_have():
    """Calls are made one at a time, so parallel ones stand each before its own answer."""
    conversation = read_line(json.dumps(LINE), 1)
    assert (
        small().decode(render(small(), conversation.messages, drop_analysis=False)).splitlines()[4:]
        == (
            "Reasoning: low\n\n# Valid channels: analysis, commentary, final. Channel must be included for every message.\n"
            "Calls to these tools must go to the commentary channel: 'functions'.<|end|>"
            "<|start|>developer<|message|># Instructions\n\nBe brief.\n\n# Tools\n\n## functions\n\nnamespace functions {\n\n"
            "// Tell it.\ntype weather = (_: {\ncity?: string,\n}) => any;\n\n} // namespace functions<|end|>"
            "<|start|>user<|message|>Weather in Oslo and Rome?<|end|>"
            "<|start|>assistant<|channel|>analysis<|message|>Two calls.<|end|>"
            '<|start|>assistant to=functions.weather<|channel|>commentary <|constrain|>json<|message|>{"city": "Oslo"}<|call|>'
            "<|start|>functions.weather to=assistant<|channel|>commentary<|message|>cold<|end|>"
            '<|start|>assistant to=functions.weather<|channel|>commentary <|constrain|>json<|message|>{"city": "Rome"}<|call|>'
            "<|start|>functions.weather to=assistant<|channel|>commentary<|message|>hot<|end|>"
            "<|start|>assistant<|channel|>final<|message|>Cold and hot.<|end|>"
        ).splitlines()
    )


def test_weights_keep_messages_from_being_learnt():
    line = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "bad", "weight": 0},
                         {"role": "user", "content": "c"}, {"role": "assistant", "content": "good", "weight": 1}]}  # fmt: skip
    (found,) = sequences(small(), read_line(json.dumps(line), 1))
    learnt = small().decode([target for target in found.targets if target != NONE])
    assert "good" in learnt
    assert "bad" not in learnt


def test_lines_without_a_date_have_many():
    dates = {read_line(user_and({"content": "x"}), number).messages[0].content[0].current_date for number in range(20)}
    assert len(dates) > 10


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("{", "truncated"),
        (user_and({"content": "x", "weight": 0.5}), "weight is 0.5: use 0 or 1"),
        (json.dumps({"colour": "red"}), "its columns \\('colour'\\) are of no known form: known are messages"),
        (user_and({"content": "x", "weight": 0}), "no assistant message to learn from"),
        (user_and({"content": [{"type": "image_url", "text": "x"}]}), "image_url"),
        (json.dumps({"messages": [*LINE["messages"][:3], LINE["messages"][5]]}), "has no result"),
        (json.dumps({"messages": [LINE["messages"][3], LINE["messages"][5]]}), "which no message before it calls"),
        (user_and({"content": "x " * 1000}), "more than max_seq_len = 600"),
    ],
)
def test_a_bad_line_is_an_error_with_its_number_and_can_be_left_out(tmp_path: Path, line: str, why: str):
    good = user_and({"content": "fine"})
    source = written(tmp_path, good, "", line, good)
    with pytest.raises(DataError, match=f"data.jsonl, line 3: .*{why}"):
        opened(tmp_path, source)
    stream = opened(tmp_path, source, skip_bad=True)
    assert stream.skipped == 1
    assert stream.take()


def test_a_file_of_nothing_good_is_an_error_even_then(tmp_path: Path):
    with pytest.raises(DataError, match=r"nothing to train on\n.*line 1"):
        opened(tmp_path, written(tmp_path, "{"), skip_bad=True)
    with pytest.raises(DataError, match="cannot be read"):
        opened(tmp_path, DataSource(jsonl="none.jsonl"))


def test_harmony_text_is_read_back_as_the_messages_that_made_it(tmp_path: Path):
    messages = [system(), developer("Be brief."), user("a"), assistant("t", "analysis"), assistant("b")]
    text = small().decode(render(small(), messages, drop_analysis=False))
    assert sequences(small(), from_harmony(small(), text)) == sequences(small(), Conversation(messages))
    (tmp_path / "two.txt").write_text(text + "\n<|endoftext|>\n" + text.removesuffix("<|end|>") + "\n<|endoftext|>\n")
    with pytest.raises(DataError, match=f"line {text.count(chr(10)) + 3}: malformed harmony: unterminated"):
        opened(tmp_path, DataSource(harmony="two.txt"))


def test_plain_text_and_json_lines_of_text(tmp_path: Path):
    (tmp_path / "a.txt").write_text("some words")
    (tmp_path / "b.jsonl").write_text('{"text": "some words", "from": "somewhere"}\n')
    one, other = (opened(tmp_path, DataSource(text=name), everything=True).take() for name in ("a.txt", "b.jsonl"))
    assert one == other
    assert small().decode(one[0].targets) == "some words<|endoftext|>"


def test_a_file_is_gone_through_whole_in_another_order_each_time(tmp_path: Path):
    stream = opened(tmp_path, written(tmp_path, *(user_and({"content": f"answer {i}"}) for i in range(8))))
    first, second = ([small().decode(stream.take()[0].tokens) for _ in range(8)] for _ in range(2))
    assert len(set(first)) == 8
    assert sorted(first) == sorted(second)
    assert first != second


def test_sources_are_drawn_by_weight_and_a_position_says_all():
    def stream() -> SequenceStream:
        sources = [
            DataSource(generator="tests.support.training:chatter"),
            DataSource(generator="tests.support.training:prose", weight=3),
        ]
        return open_stream(sources, small(), seed=1, max_seq_len=600, everything=False, skip_bad=False, near=Path())

    one, other = stream(), stream()
    for _ in range(100):
        one.take()
    assert one.position[1] > 2 * one.position[0] > 0
    other.position = list(one.position)
    assert [one.take() for _ in range(5)] == [other.take() for _ in range(5)]


def test_generators_must_exist_and_give_something(tmp_path: Path):
    for name in ("nowhere:f", "tests.support.training:nothing", "word"):
        with pytest.raises(ValueError, match="names nothing"):
            opened(tmp_path, DataSource(generator=name))
    with pytest.raises(DataError, match="have no target"):
        BatchBuckets(
            opened(tmp_path, DataSource(generator="tests.support.training:chatter"), max_seq_len=3), 1, 100, 1
        ).next()


def test_rounds_are_the_same_for_the_same_position_sorted_by_length_and_all_there(tmp_path: Path):
    one, again = (
        BatchBuckets(opened(tmp_path, DataSource(generator="tests.support.training:chatter")), 1, 1500, 3)
        for _ in range(2)
    )
    first, same = one.next(), again.next()
    assert all(np.array_equal(a.batch.tokens_T, b.batch.tokens_T) for a, b in zip(first, same, strict=True))
    assert not np.array_equal(first[0].batch.tokens_T, one.next()[0].batch.tokens_T)
    spans = sorted(
        (int(np.diff(each.batch.starts_S1).min()), int(np.diff(each.batch.starts_S1).max())) for each in first
    )
    assert all(one[1] <= other[0] for one, other in pairwise(spans))
    assert all(1000 < len(each.batch.tokens_T) < 2500 for each in first)


def test_packed_sequences_do_not_see_each_other():
    """The loss of two sequences packed is that of each alone, and no gradient passes between them."""
    pair = [each for i in range(2) for each in sequences(small(), Conversation(chatter(random.Random(i))))]
    network = TrainableModel.random(CONFIG, 0)
    together = pack(pair)
    with torch.no_grad():
        alone = torch.cat([network.logits(pack([each]).batch, ReferenceOps()) for each in pair])
        torch.testing.assert_close(network.logits(together.batch, ReferenceOps()), alone, rtol=1e-5, atol=1e-5)
    embedding = network.trained()["embedding"]
    first_rows = len(pack(pair[:1]).targets_R)
    network.logits(together.batch, ReferenceOps())[:first_rows].sum().backward()
    only_in_second = sorted(set(pair[1].tokens) - set(pair[0].tokens))
    assert only_in_second
    assert embedding.grad is not None
    assert not embedding.grad[only_in_second].any()
    assert embedding.grad[pair[0].tokens].any()


def test_groups_by_length_hold_about_as_many_rows():
    rng = random.Random(0)
    found = [Sequence([0] * rng.randint(5, 50), []) for _ in range(200)]
    sizes = [sum(len(each.tokens) for each in group) for group in by_length(found, 500)]
    assert sum(sizes) == sum(len(each.tokens) for each in found)
    assert all(450 <= size <= 550 for size in sizes[:-1])
    assert len(by_length(found, 500, max_groups=2)) == 2


def test_no_strict_group_has_more_rows_than_it_may():
    rng = random.Random(0)
    found = [Sequence([0] * rng.randint(5, 50), []) for _ in range(200)]
    groups = within(found, 100)
    sizes = [sum(len(each.tokens) for each in group) for group in groups]
    assert sum(sizes) == sum(len(each.tokens) for each in found)
    assert max(sizes) <= 100
    assert all(size + len(after[0].tokens) > 100 for size, after in zip(sizes, groups[1:]))
    with pytest.raises(ValueError, match="50 tokens is longer than a batch of 49"):
        within([Sequence([0] * 50, [])], 49)


def test_message_is_what_a_generator_may_give():
    assert all(isinstance(each, Message) for each in chatter(random.Random(0)))
