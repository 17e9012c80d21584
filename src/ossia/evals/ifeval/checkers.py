"""The 25 checkers of IFEval.

In: a response and the instruction's arguments. Out: whether the response follows it. The rules are those of
lm-evaluation-harness 0.4.13; docs/log/007-ifeval.md lists where we differ.
"""

import json
import re
from collections.abc import Callable, Mapping
from typing import Any

from ossia.evals.ifeval.language import capital_words, count_sentences, is_language

Arguments = Mapping[str, Any]
Checker = Callable[[str, Arguments], bool]
CONSTRAINED = ("My answer is yes.", "My answer is no.", "My answer is maybe.")
FENCES = ("```json", "```Json", "```JSON", "```")


def compared(count: int, relation: str, wanted: int) -> bool:
    """ "less than" and "at least" are the only relations. Raises ValueError for another."""
    if relation not in ("less than", "at least"):
        raise ValueError(f"the relation is {relation!r}: want 'less than' or 'at least'")
    return count < wanted if relation == "less than" else count >= wanted


def repeats_prompt(text: str, arguments: Arguments) -> bool:
    return text.strip().lower().startswith(arguments["prompt_to_repeat"].strip().lower())


def two_responses(text: str, arguments: Arguments) -> bool:
    """Exactly two different responses between rows of six asterisks; only the first and last piece may be empty."""
    pieces = [piece.strip() for piece in text.split("******")]
    filled = [piece for piece in pieces if piece]
    return all(pieces[1:-1]) and len(filled) == 2 and filled[0] != filled[1]


def placeholders(text: str, arguments: Arguments) -> bool:
    return len(re.findall(r"\[.*?\]", text)) >= arguments["num_placeholders"]


def postscript(text: str, arguments: Arguments) -> bool:
    marker = str(arguments["postscript_marker"])
    known = {"P.P.S": r"p\.\s?p\.\s?s", "P.S.": r"p\.\s?s\."}
    return bool(re.search(known.get(marker, re.escape(marker.lower())), text.lower()))


def bullets(text: str, arguments: Arguments) -> bool:
    """Lines that begin with a dash, or with one asterisk and something after it."""
    stars = re.findall(r"^\s*\*[^*].*$", text, re.MULTILINE)
    dashes = re.findall(r"^\s*-.*$", text, re.MULTILINE)
    return len(stars) + len(dashes) == arguments["num_bullets"]


def highlights(text: str, arguments: Arguments) -> bool:
    single = [found for found in re.findall(r"\*([^\n*]*)\*", text) if found.strip()]
    double = [found for found in re.findall(r"\*\*([^\n*]*)\*\*", text) if found.strip()]
    return len(single) + len(double) >= arguments["num_highlights"]


def sections(text: str, arguments: Arguments) -> bool:
    return len(re.findall(rf"{arguments['section_spliter']}\s?\d+", text)) >= arguments["num_sections"]


def is_json(text: str, arguments: Arguments) -> bool:
    bare = text.strip()
    for fence in FENCES:
        bare = bare.removeprefix(fence)
    try:
        json.loads(bare.removesuffix("```").strip())
    except (ValueError, RecursionError):
        return False
    return True


def has_title(text: str, arguments: Arguments) -> bool:
    return any(found.lstrip("<").rstrip(">").strip() for found in re.findall(r"<<[^\n]+>>", text))


def keywords(text: str, arguments: Arguments) -> bool:
    return all(re.search(word, text, re.IGNORECASE) for word in arguments["keywords"])


def keyword_frequency(text: str, arguments: Arguments) -> bool:
    count = len(re.findall(arguments["keyword"].strip(), text, re.IGNORECASE))
    return compared(count, arguments["relation"], arguments["frequency"])


def no_forbidden_words(text: str, arguments: Arguments) -> bool:
    return not any(re.search(rf"\b{word}\b", text, re.IGNORECASE) for word in arguments["forbidden_words"])


def letter_frequency(text: str, arguments: Arguments) -> bool:
    count = text.lower().count(arguments["letter"].strip().lower())
    return compared(count, arguments["let_relation"], arguments["let_frequency"])


def paragraphs(text: str, arguments: Arguments) -> bool:
    """Paragraphs between rows of three asterisks; only the first and the last piece may be empty."""
    pieces = [piece.strip() for piece in re.split(r"\s?\*\*\*\s?", text)]
    return all(pieces[1:-1]) and len([piece for piece in pieces if piece]) == arguments["num_paragraphs"]


def first_word_of_paragraph(text: str, arguments: Arguments) -> bool:
    pieces = re.split(r"\n\n", text)
    count, place = len([piece for piece in pieces if piece.strip()]), arguments["nth_paragraph"]
    if place > count or not pieces[place - 1].strip():
        return False
    word = pieces[place - 1].split()[0].lstrip("'").lstrip('"')
    first = re.split(r"[.,?!'\"]", word)[0].lower()
    return count == arguments["num_paragraphs"] and first == arguments["first_word"].lower()


def ends_with(text: str, arguments: Arguments) -> bool:
    return text.strip().strip('"').lower().endswith(arguments["end_phrase"].strip().lower())


def is_quoted(text: str, arguments: Arguments) -> bool:
    bare = text.strip()
    return len(bare) > 1 and bare[0] == bare[-1] == '"'


def capital_frequency(text: str, arguments: Arguments) -> bool:
    return compared(capital_words(text), arguments["capital_relation"], arguments["capital_frequency"])


CHECKERS: Mapping[str, Checker] = {
    "change_case:capital_word_frequency": capital_frequency,
    "change_case:english_capital": lambda text, _: text.isupper() and is_language(text, "en"),
    "change_case:english_lowercase": lambda text, _: text.islower() and is_language(text, "en"),
    "combination:repeat_prompt": repeats_prompt,
    "combination:two_responses": two_responses,
    "detectable_content:number_placeholders": placeholders,
    "detectable_content:postscript": postscript,
    "detectable_format:constrained_response": lambda text, _: any(each in text for each in CONSTRAINED),
    "detectable_format:json_format": is_json,
    "detectable_format:multiple_sections": sections,
    "detectable_format:number_bullet_lists": bullets,
    "detectable_format:number_highlighted_sections": highlights,
    "detectable_format:title": has_title,
    "keywords:existence": keywords,
    "keywords:forbidden_words": no_forbidden_words,
    "keywords:frequency": keyword_frequency,
    "keywords:letter_frequency": letter_frequency,
    "language:response_language": lambda text, arguments: is_language(text, arguments["language"]),
    "length_constraints:nth_paragraph_first_word": first_word_of_paragraph,
    "length_constraints:number_paragraphs": paragraphs,
    "length_constraints:number_sentences": lambda text, arguments: compared(
        count_sentences(text), arguments["relation"], arguments["num_sentences"]
    ),
    "length_constraints:number_words": lambda text, arguments: compared(
        len(re.findall(r"\w+", text)), arguments["relation"], arguments["num_words"]
    ),
    "punctuation:no_comma": lambda text, _: "," not in text,
    "startend:end_checker": ends_with,
    "startend:quotation": is_quoted,
}


def follows(instruction: str, text: str, arguments: Arguments) -> bool:
    """Whether a response follows an instruction, read strictly. An empty response follows none."""
    return bool(text.strip()) and CHECKERS[instruction](text, arguments)


def follows_loosely(instruction: str, text: str, arguments: Arguments) -> bool:
    """Whether the response, or one without its first or last line or its asterisks, follows the instruction."""
    return any(follows(instruction, each, arguments) for each in loose_forms(text))


def loose_forms(text: str) -> list[str]:
    lines = text.split("\n")
    cut = [text, *("\n".join(part).strip() for part in (lines[1:], lines[:-1], lines[1:-1]))]
    return [*cut, *(each.replace("*", "") for each in cut)]
