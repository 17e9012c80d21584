"""Which messages of a conversation stand in the prompt of its next answer: the rule for old thinking.

In: harmony messages. Out: those that are shown. `Chat`, the server's APIs and the trainer all use this one rule.

Thinking from before the last final answer is left out. Since then it stays, as calls and their results go on from it.
OpenAI's guide and gpt-oss's chat template say so. OpenAI's renderer (`render`, drop_analysis) leaves out less: what comes
before the first final answer. So a prompt made by this rule is the same after it.
"""

from collections.abc import Sequence

from ossia.harmony.messages import Message


def shown_in_prompt(messages: Sequence[Message]) -> list[int]:
    """The indices of the messages that a prompt shows."""
    last_final = max((i for i, message in enumerate(messages) if message.channel == "final"), default=-1)
    return [i for i, message in enumerate(messages) if i > last_final or message.channel != "analysis"]


def without_old_thinking(messages: Sequence[Message]) -> list[Message]:
    """The messages that a prompt shows."""
    return [messages[i] for i in shown_in_prompt(messages)]
