"""Worked problems as plain text, for ossia-mini's pre-training.

Input: a random source. Output: question, working and answer on separate lines, without a chat format.

A conversation of the same problem is twice as long, and only a third of its tokens are targets.
"""

import random

from ossia.harmony.messages import Effort
from ossia.mini.curriculum.dialogues import FREE
from ossia.mini.tasks.catalogue import drawn
from ossia.task import Example, TrainingText

EFFORT_WEIGHTS = (1, 3, 4)  # answers without working are the least useful


def document(rng: random.Random) -> TrainingText:
    """A worked problem of a task without a developer message. The text after the question is the target."""
    task = drawn(rng, FREE)
    example: Example = task.make(rng, "train")
    effort: Effort = rng.choices(("low", "medium", "high"), EFFORT_WEIGHTS)[0]
    thought = example.thoughts[effort]
    worked = "".join(f"\n{part}" for part in (thought, example.reply[-1].text) if part)
    return TrainingText(((example.question, False), (worked, True)))
