"""Decides which messages of a conversation are in the prompt of the next answer: the rule for old analysis.

In: harmony messages. Out: those in the prompt. `Chat`, the server's APIs and the trainer use this one rule.

Analysis before the last final answer is dropped. Analysis after it is kept, because calls and their results continue
it. OpenAI's guide and gpt-oss's chat template define this. OpenAI's renderer (`render`, drop_analysis) drops less:
only analysis before the first final answer. So it changes nothing in a prompt made by this rule.
"""

from collections.abc import Sequence

from ossia.harmony.messages import Message


def prompt_indices(messages: Sequence[Message]) -> list[int]:
    """The indices of the messages in the prompt."""
    last_final = max((i for i, message in enumerate(messages) if message.channel == "final"), default=-1)
    return [i for i, message in enumerate(messages) if i > last_final or message.channel != "analysis"]


def drop_old_analysis(messages: Sequence[Message]) -> list[Message]:
    """The messages in the prompt."""
    return [messages[i] for i in prompt_indices(messages)]
