"""Stop strings, in a text that comes in pieces.

In: the strings, and pieces of text. Out: what of the text is decided, and the string that ended it.
It does not know tokens, messages or channels.
"""

from collections.abc import Sequence


class StopText:
    """Gives text as soon as no stop string can begin in it. The string that ends first stops it, wherever pieces begin."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = [stop for stop in stops if stop]
        self._held = ""
        self.stopped_by: str | None = None

    def feed(self, text: str) -> str:
        """The text that is decided now. Once `stopped_by` is set it is the last, without the stop string."""
        if not self._stops:
            return text
        text = self._held + text
        ends = [(text.find(stop) + len(stop), -len(stop), stop) for stop in self._stops if stop in text]
        end, _, self.stopped_by = min(ends, default=(len(text), 0, None))
        decided = end - (len(self.stopped_by) if self.stopped_by else self._undecided(text))
        self._held = "" if self.stopped_by else text[decided:]
        return text[:decided]

    def flush(self) -> str:
        """The text is over: what was held back."""
        held, self._held = self._held, ""
        return held

    def _undecided(self, text: str) -> int:
        """The length of the text's end that a stop string may begin with."""
        sizes = (size for stop in self._stops for size in range(1, len(stop)) if text.endswith(stop[:size]))
        return max(sizes, default=0)
