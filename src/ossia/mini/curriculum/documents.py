"""Worked problems as plain text: what ossia-mini reads before it learns to converse.

In: a random source. Out: a question, the working and the answer, on lines of their own, without any chat format.
It does not know tokens, batches or who asks.

A conversation of the same problem is twice as long, and of its tokens a third are the assistant's to learn.
"""

import random

from ossia.harmony.messages import Effort
from ossia.mini.curriculum.dialogues import FREE
from ossia.mini.tasks.catalogue import drawn
from ossia.task import Example, TrainingText

EFFORT_WEIGHTS = (1, 3, 4)  # an answer without working teaches least


def document(rng: random.Random) -> TrainingText:
    """A training example of a family whose question says all that the answer needs; what follows the question is learnt."""
    task = drawn(rng, FREE)
    example: Example = task.make(rng, "train")
    effort: Effort = rng.choices(("low", "medium", "high"), EFFORT_WEIGHTS)[0]
    thought = example.thoughts[effort]
    worked = "".join(f"\n{part}" for part in (thought, example.reply[-1].text) if part)
    return TrainingText(((example.question, False), (worked, True)))
