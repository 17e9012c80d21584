"""The free text in `{"input": "…"}`, piece by piece: a custom tool's argument before its JSON is complete.

In: pieces of JSON text. Out: pieces of the text in it. Text that is no such JSON is passed on unchanged.
"""

import json
import re

OPENING = re.compile(r'\s*\{\s*"input"\s*:\s*"')
OPENING_BEGUN = re.compile(r'\s*(?:\{\s*(?:"(?:i(?:n(?:p(?:u(?:t(?:"\s*(?::\s*)?)?)?)?)?)?)?)?)?')
HEX = "[0-9a-fA-F]"
HIGH, LOW = rf"\\u[dD][89abAB]{HEX}{{2}}", rf"\\u[dD][c-fC-F]{HEX}{{2}}"
NO_LOW = r"(?=[^\\]|\\(?:[^u]|u(?:[^dD]|[dD][^c-fC-F])))"  # half a pair waits until it is known to have no other half
WHOLE = re.compile(rf'(?:[^"\\]|{HIGH}{LOW}|{HIGH}{NO_LOW}|\\u(?![dD][89abAB]){HEX}{{4}}|\\[^u])*')
CLOSING = re.compile(r'"\s*\}?\s*')
SURROGATE = re.compile(r"[\ud800-\udfff]")  # half a pair, which no UTF-8 can say


class FreeText:
    """Feed pieces, take text. `finish` gives what was held back."""

    def __init__(self) -> None:
        self._held = ""
        self._state = "before"

    def feed(self, piece: str) -> str:
        self._held += piece
        if self._state == "before":
            self._begin()
        if self._state == "inside":
            return self._inside()
        return self._take(len(self._held)) if self._state == "raw" else ""

    def finish(self) -> str:
        """The rest of the text. A well-formed end is dropped; anything else is kept."""
        return "" if self._state == "inside" and CLOSING.fullmatch(self._held) else self._take(len(self._held))

    def _begin(self) -> None:
        if opening := OPENING.match(self._held):
            self._take(opening.end())
            self._state = "inside"
        elif not OPENING_BEGUN.fullmatch(self._held):
            self._state = "raw"

    def _inside(self) -> str:
        whole = WHOLE.match(self._held)
        end = whole.end() if whole else 0
        text = self._held[:end]
        try:
            return SURROGATE.sub("\ufffd", json.loads(f'"{self._take(end)}"', strict=False))
        except ValueError:
            self._state = "raw"
            return text[:end]

    def _take(self, end: int) -> str:
        taken, self._held = self._held[:end], self._held[end:]
        return taken
