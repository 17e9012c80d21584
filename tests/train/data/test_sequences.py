"""What is trained on: exactly what inference would have before it, and all that the model must say by itself."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ossia.harmony.history import drop_old_analysis
from ossia.harmony.messages import Message, assistant, system, tool, user
from ossia.harmony.render import render
from ossia.task import TrainingText
from ossia.train.data.sequences import (
    NONE,
    Conversation,
    Sequence,
    all_targets,
    of_pieces,
    of_text,
    samplings,
    sequences,
)
from tests.support.vocabularies import small


def said(sequence: Sequence) -> str:
    return small().decode([target for target in sequence.targets if target != NONE])


def call(name: str = "functions.f") -> Message:
    return assistant("{}", "commentary", name, "json")


def of(*messages: Message) -> list[Sequence]:
    return sequences(small(), Conversation(messages))


def test_openings_between_a_turns_own_messages_are_targets_the_first_is_given():
    (only,) = of(system(), user("2 + 2?"), assistant("Hm.", "analysis"), assistant("4"))
    assert said(only) == (
        "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>final<|message|>4<|return|>"
    )


def test_a_call_ends_a_sampling_and_its_answer_is_given():
    (only,) = of(user("2 + 2?"), assistant("Hm.", "analysis"), call(), tool("functions.f", "4"), assistant("4"))
    assert said(only) == (
        "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant to=functions.f<|channel|>commentary json<|message|>{}<|call|>"
        "<|channel|>final<|message|>4<|return|>"
    )


def test_the_conversation_is_cut_where_the_format_drops_earlier_thinking():
    turns = (
        user("1 + 1?"),
        assistant("old", "analysis"),
        assistant("2"),
        user("2 + 2?"),
        assistant("new", "analysis"),
        assistant("4"),
    )
    first, second = of(*turns)
    assert "old" in said(first)
    assert "old" not in small().decode(second.tokens)
    assert said(second).startswith("<|channel|>analysis<|message|>new")
    assert (
        small()
        .decode(second.tokens)
        .startswith("<|start|>user<|message|>1 + 1?<|end|><|start|>assistant<|channel|>final")
    )


def test_turns_without_thinking_are_one_sequence_with_end_in_it_and_return_as_target():
    (only,) = of(user("a"), assistant("b"), user("c"), assistant("d"))
    assert said(only) == "<|channel|>final<|message|>b<|return|><|channel|>final<|message|>d<|return|>"
    assert "<|return|>" not in small().decode(only.tokens)


def test_messages_that_are_not_to_be_learnt_are_context_only():
    (only,) = sequences(small(), Conversation((user("a"), assistant("b"), user("c"), assistant("d")), {1}))
    assert said(only) == "<|channel|>final<|message|>d<|return|>"
    assert sequences(small(), Conversation((user("a"), assistant("b")), {1})) == []


def conversation(rng: random.Random) -> list[Message]:
    messages = [system()]
    for turn in range(rng.randint(1, 3)):
        messages.append(user(f"question {turn}"))
        for step in range(rng.randint(0, 2)):
            if rng.random() < 0.7:
                messages.append(assistant(f"thought {turn}.{step}", "analysis"))
            if rng.random() < 0.3:
                messages.append(assistant(f"I shall call {step}.", "commentary"))
            messages += [call(), tool("functions.f", str(step))]
        if rng.random() < 0.7:
            messages.append(assistant(f"thought {turn}", "analysis"))
        messages.append(assistant(f"answer {turn}"))
    return messages


@settings(max_examples=100, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_every_sampling_is_learnt_once_behind_the_prompt_that_inference_would_have(seed: int):
    """The rows with targets, each with all tokens before it, are those of sampling every answer in its place."""
    messages = conversation(random.Random(seed))
    wanted, begin = [], 0
    for i, message in enumerate(messages):
        if message.role == "assistant" and (message.recipient or message.channel == "final"):
            first = next(k for k in range(i, -1, -1) if messages[k - 1].role != "assistant")
            prompt = render(small(), drop_old_analysis(messages[:first]), next_role="assistant")
            whole = render(small(), messages[first : i + 1], drop_analysis=False)[
                1 + len(small().encode("assistant")) :
            ]
            if message.channel == "final":
                whole[-1] = small().special["<|return|>"]
            wanted += [(tuple(prompt + whole[:k]), whole[k]) for k in range(len(whole))]
            begin = i
    learnt = [
        (tuple(each.tokens[: row + 1]), target)
        for each in of(*messages)
        for row, target in enumerate(each.targets)
        if target != NONE
    ]
    assert begin
    assert sorted(learnt) == sorted(wanted)


def test_a_sampled_message_is_learnt_token_for_token():
    """A model may write a header in its own way: what it said is what is learnt."""
    ids = [
        small().special["<|channel|>"],
        *small().encode("fin"),
        *small().encode("al"),
        small().special["<|message|>"],
        65,
    ]
    message = Message("assistant", ("A",), channel="final", tokens=(*ids, small().special["<|return|>"]))
    (sampling,) = samplings(small(), Conversation([user("x"), message]))
    assert sampling.output == [*ids, small().special["<|return|>"]]


@pytest.mark.parametrize("max_seq_len", [3, 8, 100])
def test_text_is_learnt_whole_in_pieces(max_seq_len: int):
    pieces = of_text(small(), "the text, in pieces", max_seq_len)
    assert "".join(said(piece) for piece in pieces) == "the text, in pieces<|endoftext|>"
    assert all(len(piece.tokens) == len(piece.targets) <= max_seq_len for piece in pieces)


def test_of_text_in_pieces_only_those_to_be_learnt_and_the_end_are_targets():
    taught = TrainingText((("2 + 2:", False), (" 4\n", True), ("3:", False), (" 7", True)))
    ((tokens, targets),) = of_pieces(small(), taught)
    ((whole, following),) = of_text(small(), taught.text, 100)
    assert tokens == whole
    assert [target for target in targets if target != NONE] == [
        *small().encode(" 4\n"),
        *small().encode(" 7"),
        following[-1],
    ]
    assert all(target in (NONE, token) for target, token in zip(targets, following, strict=True))


def test_for_pretraining_the_prompt_is_learnt_too():
    (only,) = of(user("a"), assistant("b"))
    whole = all_targets(only)
    assert whole.targets[:-2] == whole.tokens[1:-1]
    assert whole.targets[-2] == small().special["<|return|>"]
