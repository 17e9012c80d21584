"""What is remembered of calls where nothing is kept on disk: the last ones, within a bound."""

from ossia.harmony.messages import assistant
from ossia.server.context import Recent


def test_the_last_calls_are_remembered_within_a_bound():
    memory = Recent(most=1000)
    thought = (assistant("x" * 284, "analysis"),)
    for call in ("a", "b", "c", "d", "d", "d"):
        memory.remember(call, thought)
    assert [memory.recall(call) for call in "abcd"] == [(), thought, thought, thought]
    memory.remember("huge", (assistant("x" * 2000, "analysis"),))
    assert not any(memory.recall(call) for call in ("b", "c", "d", "huge"))
    memory.remember("e", thought)
    assert memory.recall("e") == thought
