"""A small full-text index: BM25 over documents in memory.

In: texts. Out: the numbers of the documents that fit a query best, with their scores. Words are letters and digits in
any case, without a plural s; texts without spaces between words (Chinese, Japanese, Thai) are indexed by pairs of characters.
"""

import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from heapq import nlargest

K1, B = 1.2, 0.75
MAX_WORDS = 200_000  # of one document
MAX_QUERY_WORDS = 64
_RUN = re.compile(r"[^\W_]+")
_UNSPACED = re.compile("[\u0e00-\u0e7f\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]+")


def words(text: str) -> Iterator[str]:
    """The index terms of a text."""
    for run in _RUN.finditer(text.lower()):
        at = 0
        for part in _UNSPACED.finditer(run[0]):
            if part.start() > at:
                yield _singular(run[0][at : part.start()])
            characters = part[0]
            yield from (characters[i : i + 2] for i in range(max(1, len(characters) - 1)))
            at = part.end()
        if at < len(run[0]):
            yield _singular(run[0][at:])


def _singular(word: str) -> str:
    """Without the s of an English plural."""
    return word[:-1] if len(word) > 3 and word.endswith("s") and not word.endswith("ss") else word


class Bm25Index:
    """Add all documents, then search. A document has the number of its addition."""

    def __init__(self) -> None:
        self._postings: dict[str, list[tuple[int, int]]] = defaultdict(list)
        self._lengths: list[int] = []

    def add(self, text: str) -> int:
        """Add a document and return its number."""
        number = len(self._lengths)
        counts: Counter[str] = Counter()
        length = 0
        for word in words(text):
            counts[word] += 1
            length += 1
            if length >= MAX_WORDS:
                break
        for word, count in counts.items():
            self._postings[word].append((number, count))
        self._lengths.append(length)
        return number

    def search(self, query: str, limit: int) -> list[tuple[int, float]]:
        """The best documents with their scores, best first; of equal ones, the first added."""
        total = len(self._lengths)
        mean = (sum(self._lengths) / total) or 1.0 if total else 1.0
        scores: dict[int, float] = defaultdict(float)
        for word in list(dict.fromkeys(words(query)))[:MAX_QUERY_WORDS]:
            found = self._postings.get(word, ())
            rarity = math.log(1 + (total - len(found) + 0.5) / (len(found) + 0.5))
            for number, count in found:
                norm = K1 * (1 - B + B * self._lengths[number] / mean)
                scores[number] += rarity * count * (K1 + 1) / (count + norm)
        return nlargest(limit, scores.items(), key=lambda item: (item[1], -item[0]))
