"""Training conversations: one task, several tasks in a row, and small talk.

Input: a seeded random source. Output: messages, the last one the assistant's.
"""

import random

from ossia.harmony.messages import Effort, Message, assistant, user
from ossia.mini.parts.build import surroundings
from ossia.mini.tasks import arithmetic, calendar, letters, logic, order, stories, units
from ossia.mini.tasks.catalogue import drawn
from ossia.task import Example, Task

ABOUT = "I am Ossia-mini, a small reasoning model. I can do arithmetic, solve small word problems and call functions."
GREETING = "Hello! What shall I work out for you?"
SAME_IN_JAPANESE = "Ossia-mini という小さな推論モデルです。計算や短い文章題が得意です。"
TALK: tuple[tuple[tuple[str, ...], str], ...] = (
    (("Who are you?", "who are you", "What are you?", "What is your name?", "Introduce yourself.", "What model are you?"), ABOUT),
    (("What can you do?", "what can you do", "Help", "help", "How can you help me?", "What are you good at?"), ABOUT),
    (("Hello", "Hi", "Hello!", "Hi!", "hi", "hello", "Hey", "Good morning", "Hi there!"), GREETING),
    (("How are you?", "how are you", "How are you doing?"), "I am well, thank you. What shall I work out for you?"),
    (("Thanks", "Thank you", "Thank you!", "thanks!", "thank you very much"), "You are welcome!"),
    (("Bye", "Goodbye", "bye", "Bye!", "See you"), "Goodbye!"),
    (("こんにちは", "こんにちは。", "はじめまして"), "こんにちは。何を計算しましょうか。"),
    (("あなたは誰ですか？", "あなたはだれ？", "自己紹介してください。"), SAME_IN_JAPANESE),
)  # fmt: skip
# Tasks without a developer message, which can follow any other.
FREE: tuple[Task, ...] = tuple(
    task for group in (arithmetic, stories, order, letters, calendar, units, logic) for task in group.TASKS
)

EFFORT_WEIGHTS = (1, 2, 2)  # answers without thinking are the least useful


def dialogue(rng: random.Random) -> list[Message]:
    """One conversation, its kind drawn by weight."""
    effort: Effort = rng.choices(("low", "medium", "high"), EFFORT_WEIGHTS)[0]
    match rng.choices(("task", "turns", "talk"), (87, 10, 3))[0]:
        case "turns":
            return _turns(rng, effort)
        case "talk":
            return _talk(rng, effort)
    return drawn(rng).make(rng, "train").conversation(effort)


def _turns(rng: random.Random, effort: Effort) -> list[Message]:
    first, *others = (drawn(rng, FREE).make(rng, "train") for _ in range(rng.randint(2, 3)))
    later = [message for each in others for message in _exchange(each, effort)]
    return [*first.conversation(effort), *later]


def _exchange(example: Example, effort: Effort) -> list[Message]:
    return [user(example.question), *example.turn(effort)]


def _talk(rng: random.Random, effort: Effort) -> list[Message]:
    asked, reply = rng.choice(TALK)
    thought = "" if effort == "low" else "No calculation is needed."
    said = Example(
        "talk",
        "talk",
        "train",
        (*surroundings(rng, "train"), user(rng.choice(asked))),
        reply,
        {effort: thought},
        (assistant(reply),),
    )
    return said.conversation(effort)
