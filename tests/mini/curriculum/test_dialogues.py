"""Conversations to train on: all families, several turns, small talk; the same for the same seed; nothing held back."""

import random
import re

from tests.support.vocabularies import small

from ossia.mini.curriculum.dialogues import GREETING, dialogue
from ossia.mini.parts.words import HELD_LOWER
from ossia.train.data.sequences import Conversation, sequences


def dialogues(seed: int, count: int) -> list:
    rng = random.Random(seed)
    return [dialogue(rng) for _ in range(count)]


def test_the_same_seed_gives_the_same_dialogues_and_another_gives_others():
    assert dialogues(1, 30) == dialogues(1, 30) != dialogues(2, 30)


def test_a_dialogue_begins_with_the_system_and_ends_with_the_assistant():
    for messages in dialogues(3, 500):
        assert messages[0].role == "system"
        assert messages[-1].role == "assistant"
        assert sequences(small(), Conversation(messages))


def test_there_are_several_turns_small_talk_calls_and_tools():
    made = dialogues(4, 2000)
    assert any(sum(message.role == "user" for message in each) == 3 for each in made)
    assert any(each[-1].text == GREETING for each in made)
    assert any(each[-1].recipient for each in made)
    assert any(message.role == "tool" for each in made for message in each)


def test_no_held_word_is_trained_on():
    words = {
        word
        for messages in dialogues(5, 2000)
        for message in messages
        for word in re.findall("[a-z]+", " ".join(map(str, message.content)).lower())
    }
    assert not words & HELD_LOWER
