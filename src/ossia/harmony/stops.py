"""Finds stop strings in a text that arrives in pieces.

In: the strings, and pieces of text. Out: the text that is decided, and the stop string that ended it.
"""

from collections.abc import Sequence


class StopText:
    """Returns text once no stop string can begin in it. The stop string that ends first is used, however the text is
    cut.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = [stop for stop in stops if stop]
        self._held = ""
        self.stopped_by: str | None = None

    def feed(self, text: str) -> str:
        """The text that is decided now. If `stopped_by` is set, it is the last text, without the stop string."""
        if not self._stops:
            return text
        text = self._held + text
        ends = [(text.find(stop) + len(stop), -len(stop), stop) for stop in self._stops if stop in text]
        end, _, self.stopped_by = min(ends, default=(len(text), 0, None))
        decided = end - (len(self.stopped_by) if self.stopped_by else self._undecided(text))
        self._held = "" if self.stopped_by else text[decided:]
        return text[:decided]

    def flush(self) -> str:
        """End of the text: returns the text held back."""
        held, self._held = self._held, ""
        return held

    def _undecided(self, text: str) -> int:
        """The length of the text's end that may be the beginning of a stop string."""
        sizes = (size for stop in self._stops for size in range(1, len(stop)) if text.endswith(stop[:size]))
        return max(sizes, default=0)
