"""Worked problems as text: the same for the same seed, question first and answer last, nothing held back, no chat format."""

import random
import re

from ossia.mini.curriculum.dialogues import FREE
from ossia.mini.curriculum.documents import document
from ossia.mini.parts.words import HELD_LOWER


def documents(seed: int, count: int) -> list[str]:
    rng = random.Random(seed)
    return [document(rng).text for _ in range(count)]


def test_the_same_seed_gives_the_same_documents_and_another_gives_others():
    assert documents(1, 30) == documents(1, 30) != documents(2, 30)


def test_a_document_is_a_question_perhaps_its_working_and_an_answer():
    lines = {len(text.splitlines()) for text in documents(2, 500)}
    assert min(lines) == 2
    assert 3 in lines
    assert not any("<|" in text for text in documents(2, 500))


def test_questions_that_need_more_than_their_own_words_are_left_to_conversations():
    names = {task.name for task in FREE}
    assert {"addition", "story", "dates"} <= names
    assert not names & {"one function", "python", "form", "secret"}


def test_no_held_word_is_read():
    words = {word for text in documents(3, 2000) for word in re.findall("[a-z]+", text.lower())}
    assert not words & HELD_LOWER
