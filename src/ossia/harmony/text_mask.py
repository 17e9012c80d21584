"""The token mask of a constrained text without roles or channels, for plain completions.

In: a JSON schema or a grammar. Out: before each token, one bit per allowed id; at the end any stop token.
"""

from collections.abc import Iterable

from ossia.harmony.enforce import SchemaError
from ossia.harmony.grammar import GrammarCache, both, has, reason_of
from ossia.harmony.messages import AnswerForm


class TextMask:
    """A `TokenMask`. Raises SchemaError for a form that cannot be enforced, at once or after some tokens."""

    def __init__(self, grammars: GrammarCache, form: AnswerForm, stops: Iterable[int]) -> None:
        self._matcher = grammars.matcher(form)
        self._grammars, self._stops = grammars, frozenset(stops) | {grammars.ret}
        self._over = False

    def mask(self) -> bytes | None:
        if self._over:
            return None
        given = bytearray(self._matcher.compute_bitmask())
        if self._matcher.is_error():
            raise self._too_complex()
        may_end = has(given, self._grammars.ret)
        allowed = bytearray(both(given, self._grammars.text_masks[self._grammars.ret]))
        for token in self._stops if may_end else ():
            allowed[token >> 3] |= 1 << (token & 7)
        return bytes(allowed)

    def accept(self, token: int) -> None:
        self._over = self._over or token in self._stops
        if not self._over and not self._matcher.consume_token(token):
            raise self._too_complex()

    def _too_complex(self) -> SchemaError:
        return SchemaError(
            "", "", reason_of(self._matcher), "the form of the text is too complex to be enforced further"
        )
