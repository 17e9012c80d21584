"""What programs write: the beginning and the end are kept, and pieces are reported as they come."""

import asyncio
import os

from hypothesis import given
from hypothesis import strategies as st

from ossia.tools.output import CallOutput, HeadTail, PipeReader
from ossia.tools.session import ToolProgress, ignore


@given(st.lists(st.text(max_size=30)), st.integers(2, 60))
def test_a_text_is_kept_whole_or_with_both_ends(pieces: list[str], limit: int):
    kept, text = HeadTail(limit), "".join(pieces)
    for piece in pieces:
        kept.add(piece)
    assert kept.total == len(text)
    half = limit // 2
    if len(text) <= 2 * half:
        assert kept.text() == text
    else:
        left_out = len(text) - 2 * half
        assert kept.text() == f"{text[:half]}\n[... {left_out} characters left out ...]\n{text[-half:]}"


def test_a_pipe_is_read_as_text_even_if_a_character_is_split():
    async def work():
        found: list[str] = []
        reader = PipeReader(found.append)
        for byte in "é√".encode():
            os.write(reader.writer, bytes([byte]))
            await asyncio.sleep(0.001)
        os.write(reader.writer, b"\xff.")
        reader.drain()
        assert "".join(found) == "é√\ufffd."
        reader.close()
        reader.close()

    asyncio.run(work())


def test_a_call_collects_both_streams_and_counts_floods():
    reported: list[ToolProgress] = []
    output = CallOutput(100, 10, reported.append)
    output.add("one ", error=False)
    output.add("two ", error=True)
    output.add("3", error=False)
    assert (output.out.text(), output.err.text(), output.both.text()) == ("one 3", "two ", "one two 3")
    assert [progress.stream for progress in reported] == ["stdout", "stderr", "stdout"]
    assert not output.flooded
    output.closed = True
    output.add("many more", error=False)
    assert output.flooded
    assert len(reported) == 3
    CallOutput(1, 1, ignore).add("", error=True)
