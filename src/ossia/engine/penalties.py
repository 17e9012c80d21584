"""Penalties for tokens that a request has used before: repetition, frequency and presence.

In: a request's tokens as they come, and a row of logits. Out: the row with its penalties, as vLLM and OpenAI define them.
Noting a token costs O(1), and a row costs one operation for each distinct token that was noted.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ossia.engine.request import SamplingParams


class Penalties:
    """Tokens of one request with their counts in the output.

    repetition_penalty divides positive logits and multiplies negative ones, for tokens of the prompt and the output.
    frequency_penalty is subtracted once for each time that a token stands in the output, presence_penalty once.
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
        """Note what is new of prompt and output. Tokens that were noted but never committed are forgotten."""
        if self.noted > len(tokens):
            self._counts[:] = 0
            self.noted = self._prompt_length
        for token in tokens[self.noted :]:
            self.note(token)

    def note(self, token: int) -> None:
        """One more token of the output."""
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
