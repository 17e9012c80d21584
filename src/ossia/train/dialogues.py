"""Harmony conversations around problems: dated system messages, developers, tools, small talk, several turns.

In: a seeded random source. Out: messages, the last of them an assistant's.
It does not know tokens or how a model is trained.
"""

import random
from datetime import date, timedelta
from typing import get_args

from ossia.harmony.messages import (
    Developer,
    Effort,
    Message,
    System,
    ToolNamespace,
    assistant,
    developer,
    system,
    tool,
    user,
)
from ossia.train.calls import call_problem, unrelated_tools
from ossia.train.problems import Problem, problem

EFFORTS: tuple[Effort, ...] = get_args(Effort)
OWN_IDENTITY = "You are Ossia-mini, a small reasoning model."
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
INSTRUCTIONS = (
    "You are a helpful assistant.",
    "Be brief.",
    "Answer the user's question.",
    "You are a math tutor.",
    "Help the user.",
)


def dialogue(rng: random.Random) -> list[Message]:
    """One conversation of a kind drawn by its weight."""
    effort = rng.choice(EFFORTS)
    kind = rng.choices(("problem", "call", "talk", "turns"), (70, 16, 3, 11))[0]
    match kind:
        case "call":
            return [_system(rng, effort), *_call(rng, effort)]
        case "talk":
            return [_system(rng, effort), *_maybe_developer(rng), *_talk(rng, effort)]
        case "turns":
            turns = [_exchange(rng, problem(rng), effort) for _ in range(rng.randint(2, 3))]
            return [_system(rng, effort), *_maybe_developer(rng), *(message for turn in turns for message in turn)]
    return [_system(rng, effort), *_maybe_developer(rng), *_exchange(rng, problem(rng), effort)]


def prompt_for(task: Problem, effort: Effort, today: date) -> list[Message]:
    """The conversation that the terminal would open with this question: for evaluation."""
    return [system(System(effort=effort, current_date=today.isoformat())), user(task.question)]


def _system(rng: random.Random, effort: Effort) -> Message:
    day = date(2024, 1, 1) + timedelta(days=rng.randrange(365 * 7))
    content = System(effort=effort, current_date=day.isoformat() if rng.random() < 0.93 else None)
    if rng.random() < 0.12:
        content = System(identity=OWN_IDENTITY, effort=effort, current_date=content.current_date, knowledge_cutoff=None)
    return system(content)


def _maybe_developer(rng: random.Random) -> list[Message]:
    draw = rng.random()
    if draw < 0.1:
        return [developer(rng.choice(INSTRUCTIONS))]
    if draw < 0.2:
        return [developer(Developer(None, (ToolNamespace("functions", None, unrelated_tools(rng)),)))]
    return []


def _exchange(rng: random.Random, task: Problem, effort: Effort) -> list[Message]:
    return [user(task.question), assistant(task.reasoning(effort), "analysis"), assistant(task.reply)]


def _talk(rng: random.Random, effort: Effort) -> list[Message]:
    asked, reply = rng.choice(TALK)
    thought = [] if effort == "low" else [assistant("No calculation is needed.", "analysis")]
    return [user(rng.choice(asked)), *thought, assistant(reply)]


def _call(rng: random.Random, effort: Effort) -> list[Message]:
    """Half the conversations end with the call, half go on to the reply: the model learns both."""
    task = call_problem(rng)
    instructions = rng.choice(INSTRUCTIONS) if rng.random() < 0.2 else None
    name = f"functions.{task.name}"
    thought = (
        f"Call {task.name}." if effort == "low" else f"The user asks for this, and {name} gives it. Call {task.name}."
    )
    messages = [
        developer(Developer(instructions, (ToolNamespace("functions", None, task.tools),))),
        user(task.question),
        assistant(thought, "analysis"),
        assistant(task.arguments, "commentary", name, "<|constrain|>json"),
    ]
    if rng.random() < 0.5:
        messages += [tool(name, task.result), assistant(task.reply)]
    return messages
