"""Repetition, frequency and presence penalties, as defined by vLLM and OpenAI.

In: a request's tokens as they are sampled, and a row of logits. Out: the penalized row. Counting a token costs O(1); a
row costs one operation per distinct token.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ossia.engine.request import SamplingParams


class Penalties:
    """The tokens of one request, with their counts in the output.

    repetition_penalty divides positive logits and multiplies negative ones, for tokens of prompt and output.
    frequency_penalty is subtracted once per occurrence in the output, presence_penalty once.
    """

    def __init__(self, params: SamplingParams, prompt: Sequence[int]) -> None:
        self._params = params
        known = np.unique(np.asarray(prompt, np.int64)) if params.repetition_penalty != 1.0 else np.zeros(0, np.int64)
        self._places = {int(token): place for place, token in enumerate(known)}
        self._known = len(known)
        self._tokens = np.concatenate([known, np.zeros(64, np.int64)])
        self._counts = np.zeros(len(self._tokens), np.float32)
        self._prompt_length = len(prompt)
        self.noted = len(prompt)

    def follow(self, tokens: Sequence[int]) -> None:
        """Count the new tokens of the request. Tokens that were counted but never committed are removed."""
        if self.noted > len(tokens):
            self._counts[:] = 0
            self.noted = self._prompt_length
        for token in tokens[self.noted :]:
            self.note(token)

    def note(self, token: int) -> None:
        """Count one more token of the output."""
        place = self._places.setdefault(token, self._known)
        if place == self._known:
            self._known += 1
            if self._known > len(self._tokens):
                self._tokens = np.concatenate([self._tokens, np.zeros_like(self._tokens)])
                self._counts = np.concatenate([self._counts, np.zeros_like(self._counts)])
            self._tokens[place] = token
        self._counts[place] += 1
        self.noted += 1

    def apply(self, logits_V: NDArray[np.float32]) -> None:
        """Penalize a row, in place."""
        p, tokens, counts = self._params, self._tokens[: self._known], self._counts[: self._known]
        values = logits_V[tokens]
        if p.repetition_penalty != 1.0:
            penalty = np.float32(p.repetition_penalty)
            values = np.where(values > 0, values / penalty, values * penalty)
        values -= np.float32(p.frequency_penalty) * counts + np.float32(p.presence_penalty) * (counts > 0)
        logits_V[tokens] = values
