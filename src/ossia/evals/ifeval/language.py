"""The language of a text, its sentences, and its words in capitals.

In: a text. Out: a verdict or a count, without network. Needs langdetect, of the extra `eval`.
"""

import re
from functools import cache
from importlib import import_module
from typing import Any

# After these no sentence ends.
ABBREVIATIONS = frozenset(
    "mr mrs ms dr prof st sr jr vs etc eg ie e.g i.e al inc ltd co corp fig no gen col sgt capt lt rev hon ave blvd"
    " dept est approx jan feb mar apr aug sept oct nov dec u.s u.k u.n a.m p.m ph.d b.c a.d".split()
)
END = re.compile(r"(?P<before>\S*?)(?P<mark>[.?!]+)(?P<close>[\"')\]”’]*)\s+(?=(?P<next>\S))")
CONTRACTION = re.compile(r"(?<=\w)('(?:S|M|D|LL|RE|VE)|N'T)$")


def is_language(text: str, code: str) -> bool:
    """Whether a text is in the language of this ISO 639-1 code; also true where none can be detected."""
    detect, failure = _detector()
    try:
        return detect(text) == code
    except failure:
        return True


@cache
def _detector() -> tuple[Any, type[Exception]]:
    """langdetect, which draws at random: seeded once."""
    try:
        library = import_module("langdetect")
    except ImportError as error:
        raise ImportError("ifeval needs langdetect: pip install 'ossia[eval]'") from error
    library.DetectorFactory.seed = 0
    return library.detect, library.LangDetectException


def count_sentences(text: str) -> int:
    """Sentences of English: a mark and then a space, without an abbreviation or initial before it."""
    bare = text.strip()
    return (1 + sum(map(_ends_sentence, END.finditer(bare)))) if bare else 0


def _ends_sentence(match: re.Match[str]) -> bool:
    mark, before, following = match["mark"], match["before"].lstrip("([\"'“‘*_").lower(), match["next"]
    if mark != ".":
        return not (set(mark) == {"."} and following.islower())
    initial = len(before) == 1 and before.isalpha() and before != "i"
    return not (before in ABBREVIATIONS or initial)


def capital_words(text: str) -> int:
    """Words without small letters. A word with a hyphen is one; "I'M" is two, as in the Treebank's tokens."""
    count = 0
    for piece in re.split(r"[\s,;:?!()\[\]{}<>\"“”«»*&%$#@`…]+|--+|\.(?=\s|$)", text):
        count += piece.isupper()
        count += piece.isupper() and bool(CONTRACTION.search(piece))
    return count
