"""The letter of a multiple-choice answer.

In: a final text in any of the 15 languages of MMMLU. Out: the letter and the rule that found it, or None.

Rules from sure to weak; the first rule with a match decides, and of its matches the last one:
declared ("Answer: B", a box, "the answer is B"), confirmed ("B is right"), option ("Option B", a label we do not know),
alone (a letter in bold or on its own line), ending (the text ends with a letter), only (one letter in brackets).
"""

import re
import unicodedata
from collections.abc import Iterator
from typing import NamedTuple

from ossia.evals.answers.boxes import boxes

LABELS = (
    "answers?",
    "উত্তরঃ?",
    "उत्तर",
    "antwort",
    "losung",
    "답변",
    "정답",
    "답",
    "答案",
    "答复",
    "答曰",
    "答え",
    "回答",
    "解答",
    "正解",
    "答",
    "ال[إا]جابة",
    "[إا]جابة",
    "الجواب",
    "respuesta",
    "risposta",
    "jawaban",
    "reponse",
    "resposta",
    "jibu",
    "idahun",
    "adahun",
    "asayan",
    "amona",
    "anugo",
)  # without accents: see `plain`
COPULAS = "is|was|ist|est|es|e|adalah|ni|هي|هو|は|が|是|为|為|은|는|है|হল|হলো|jẹ|je"
LETTERS = {
    **{letter: letter for letter in "ABCD"},
    **dict(zip("أبجد", "ABCD")),
    **dict(zip("অবডঢ", "ABCD")),
    **dict(zip("কখগঘ", "ABCD")),
}
MARKUP = re.compile(r"\*+|__+|`+|\$|\\[()\[\]]|[\u200b-\u200f\u2060\ufeff]|(?<!\w)_(?=\w)|(?<=\w)_(?!\w)")
COMMAND = re.compile(
    r"\\(?:text|textbf|textit|textrm|textsf|texttt|mathrm|mathbf|mathit|mathsf|boldsymbol|bm|operatorname)\s*(?=\{)"
)


# A letter that stands alone: no Latin letter or digit after a Latin one, no Arabic after an Arabic one.
LETTER = (
    r"[(\[{⟦]{0,4}\s{0,4}(?:(?P<latin>[A-D])(?![A-Za-z0-9_]|['’][a-z])|(?P<small>[a-d])(?=[)\]}⟧]|[\s.]*$)"
    r"|(?P<arabic>[أبجد])(?![\u0621-\u064a])|(?P<bengali>[অবডঢকখগঘ])(?![\u0980-\u09ff]))\s{0,4}[)\]}⟧]{0,4}"
)
ANY_LABEL = "|".join(LABELS)
NAMED = r"(?:(?i:option|choice)\s*)?"


def _pattern(source: str) -> re.Pattern[str]:
    return re.compile(source, re.MULTILINE)


# A label, then a colon (after two more words at most), a copula, a dash or only a space, then a letter.
LABELLED = _pattern(
    rf"(?i:(?<![A-Za-z])(?:{ANY_LABEL}))"
    rf"(?:(?:[^\S\n]+[^\s:]{{1,12}}){{0,2}}\s*[:=]\s*{NAMED}"
    rf"|\s*(?i:{COPULAS})(?:\s*:\s*|(?<=[^\x00-\x7f])\s*|\s+){NAMED}|\s*[-–—]\s*|[^\S\n]+(?=\W*[^a-d\s])){LETTER}"
)
BEST = _pattern(
    rf"(?i:\b(?:correct|right|best|final)\s+(?:option|choice|one|letter)(?:\s+is|\s+was|\s+would\s+be|\s*:)\s*:?\s*){LETTER}"
)
CONFIRMED = _pattern(rf"(?<![A-Za-z0-9]){LETTER}\s+is\s+(?:the\s+)?(?:correct|right|best|answer)\b")
BOXED = _pattern(r"⟦([^⟦⟧]*)⟧")
OPTION = _pattern(rf"(?i:\b(?:option|choice))\s*[:\-–]?\s*{LETTER}")
OTHER_LABEL = _pattern(rf"^[^\w\n]{{0,9}}[^\s:]{{2,20}}(?:[^\S\n]+[^\s:]{{1,20}}){{0,2}}\s*:\s*{LETTER}[^\w\n]{{0,9}}$")
ALONE = _pattern(rf"^[^\S\n]*{LETTER}[^\S\n]*[.:]?[^\S\n]*$")
BOLD = _pattern(
    r"(?<![A-Za-z0-9*_])(?:\*{1,3}|__?)\s*\(?(?P<latin>[A-D])(?:\s*[).:][^*_\n]{0,300}|\))?\s{0,4}(?:\*{1,3}|__?)(?![A-Za-z0-9])"
)
RESTATED = _pattern(r"(?:^|(?<=[.?!:]))[^\S\n]*\(?(?P<latin>[A-D])(?:[).:]|[^\S\n]+[-–—])[^\S\n]+(?=\S)")
# "vitamin C." names no option: before a bare letter stands a sentence's end or a word such as "is" or "choose".
ENDING = _pattern(
    rf"(?:^|(?<=[.?!:;,\n])|(?<=[.?!:;,]\s)|\b(?i:is|be|was|pick|choose|chose|select|say|with|to|for)\s+|\s(?=[(\[{{⟦]))"
    rf"\s{{0,4}}{LETTER}[\s.!]*\Z"
)
BRACKETED = _pattern(r"(?<![A-Za-z0-9])[(\[]\s*(?P<latin>[A-D])\s*[)\]](?![A-Za-z0-9])")

REJECTED = re.compile(r"[\s).\]]*(?:is|are|was|seems|looks)\s+(?:\w+\s+)?(?:wrong|incorrect|false|not|out)\b", re.I)
SECOND = re.compile(r"[^\S\n]*(?:,|/|&|(?i:and|or)\b)[^\S\n]*(?:(?i:and|or)\b[^\S\n]*)?[(\[]*[A-D](?![A-Za-z0-9])")
NEGATED = re.compile(r"(?i:\bnot|n't|\bnever|\bneither|\bnor|\bexcept|\bunlike)\s+(?:option\s+|choice\s+)?[(\[]*\Z")
QUOTED = re.compile(r"(?i:should|must|format|form)\b[^.\n'\"‘“]{0,40}['\"‘“]\s*\Z")
ARTICLE = re.compile(r"[^\S\n]+(?!(?:because|since|as|is|by|from|due|for|and|which|with|given|or|but)\b)[a-z]")
SEVERAL = "several"


class Choice(NamedTuple):
    """letter: A to D. rule: which kind of statement it was read from."""

    letter: str
    rule: str


def choice_of(text: str) -> Choice | None:
    """The option that a text answers with; None if it names none, or two at once."""
    marked = plain(text)
    bare = MARKUP.sub("", marked)
    for rule, found in _rules(marked, bare):
        if found:
            letter = max(found)[1]
            return None if letter == SEVERAL else Choice(letter, rule)
    return None


def plain(text: str) -> str:
    """Full-width forms as ASCII, no accents on Latin letters, no text commands of LaTeX, and boxes as ⟦…⟧."""
    wide = unicodedata.normalize("NFD", unicodedata.normalize("NFKC", text))
    flat = COMMAND.sub("", unicodedata.normalize("NFC", re.sub(r"[\u0300-\u036f]", "", wide)))
    for box in reversed([*boxes(flat)]):
        flat = f"{flat[: box.start]}⟦{box.content}⟧{flat[box.end :]}"
    return flat


Found = list[tuple[int, str]]


def _rules(marked: str, bare: str) -> Iterator[tuple[str, Found]]:
    """The rules in order, each with the places and letters that it finds."""
    labelled = _found(LABELLED, bare, guard_article=True)
    yield "declared", [*labelled, *_found(BEST, bare), *_in_boxes(bare)]
    yield "confirmed", _found(CONFIRMED, bare)
    yield "option", [*_found(OPTION, bare), *_found(OTHER_LABEL, bare)]
    yield "alone", _found(ALONE, bare)
    yield "alone", _one_only(_found(BOLD, marked))
    yield "alone", _one_only(_found(RESTATED, bare))
    yield "ending", _found(ENDING, bare)
    yield "only", _one_only(_found(BRACKETED, bare))


def _found(pattern: re.Pattern[str], text: str, guard_article: bool = False) -> Found:
    found: Found = []
    for match in pattern.finditer(text):
        letter = next(LETTERS[each.upper()] for each in match.groupdict().values() if each)
        start, after = (
            match.start(next(k for k, v in match.groupdict().items() if v)),
            text[match.end() : match.end() + 40],
        )
        if REJECTED.match(after) or NEGATED.search(text[max(0, start - 20) : start]):
            continue
        if QUOTED.search(text[max(0, match.start() - 80) : match.start()]):
            continue
        if guard_article and letter == "A" and match[0].endswith("A") and ARTICLE.match(after):
            continue
        found.append((start, SEVERAL if SECOND.match(after) else letter))
    return found


def _in_boxes(text: str) -> Found:
    """The letter of each box: in brackets, at its start, or at its end."""
    found: Found = []
    for box in BOXED.finditer(text):
        content = box[1].replace("{", "").replace("}", "").strip()
        for pattern in (BRACKETED, _pattern(r"\A[^A-Za-z0-9]*" + LETTER), ENDING):
            letters = _found(pattern, content)
            if letters:
                found.append((box.start(1), letters[-1][1] if len({letter for _, letter in letters}) == 1 else SEVERAL))
                break
    return found


def _one_only(found: Found) -> Found:
    """The same letter each time, or nothing: a list of all options is no answer."""
    return found if len({letter for _, letter in found}) == 1 else []
