"""IFEval's checkers on texts of our own; docs/log/007-ifeval.md has the comparison with lm-evaluation-harness."""

import pytest

from ossia.evals.ifeval.checkers import CHECKERS, follows, follows_loosely
from ossia.evals.ifeval.language import count_sentences

CASES = {
    "change_case:capital_word_frequency": (
        {"capital_frequency": 3, "capital_relation": "at least"}, "NASA and ESA met THE-PRESS.", "NASA and Esa met."),
    "combination:repeat_prompt": ({"prompt_to_repeat": "Write a song."}, "write a song.\nLa la.", "La la. Write a song."),
    "combination:two_responses": ({}, "One.\n******\nTwo.", "One.\n******\nOne."),
    "detectable_content:number_placeholders": ({"num_placeholders": 2}, "[name] of [town]", "[name] of"),
    "detectable_content:postscript": ({"postscript_marker": "P.S."}, "Bye.\np.s. Call me", "Bye. PS call me"),
    "detectable_format:constrained_response": ({}, "My answer is yes.", "Yes."),
    "detectable_format:json_format": ({}, '```json\n{"a": 1}\n```', "{a: 1}"),
    "detectable_format:multiple_sections": (
        {"section_spliter": "Section", "num_sections": 2}, "Section 1\na\nSection 2\nb", "Section 1\na"),
    "detectable_format:number_bullet_lists": ({"num_bullets": 2}, "* a\n- b", "* a\n- b\n- c"),
    "detectable_format:number_highlighted_sections": ({"num_highlights": 2}, "*a* and *b*", "*a* and ** **"),
    "detectable_format:title": ({}, "<<A title>>\nText", "<< >>\nText"),
    "keywords:existence": ({"keywords": ["sun", "moon"]}, "Sun and MOON", "Sun"),
    "keywords:forbidden_words": ({"forbidden_words": ["sun"]}, "sunny", "the Sun"),
    "keywords:frequency": ({"keyword": "sun", "frequency": 2, "relation": "at least"}, "Sun, sun", "sun"),
    "keywords:letter_frequency": ({"letter": "#", "let_frequency": 2, "let_relation": "less than"}, "#a", "#a #b"),
    "length_constraints:nth_paragraph_first_word": (
        {"num_paragraphs": 2, "nth_paragraph": 2, "first_word": "then"}, "A.\n\n\"Then, b.", "Then.\n\nA."),
    "length_constraints:number_paragraphs": ({"num_paragraphs": 2}, "a\n***\nb\n***", "a\n***\n***\nb"),
    "length_constraints:number_sentences": ({"num_sentences": 2, "relation": "at least"}, "One. Two.", "Dr. One."),
    "length_constraints:number_words": ({"num_words": 3, "relation": "less than"}, "one two", "one two three"),
    "punctuation:no_comma": ({}, "one two", "one, two"),
    "startend:end_checker": ({"end_phrase": "The end."}, 'So. the END."', "The end. No."),
    "startend:quotation": ({}, ' "Quoted" ', '"Not'),
}  # fmt: skip
LANGUAGE_CASES = {
    "change_case:english_capital": ({}, "THIS IS A SENTENCE IN ENGLISH.", "This is a sentence in English."),
    "change_case:english_lowercase": ({}, "this is a sentence in english.", "This is a sentence in English."),
    "language:response_language": (
        {"language": "de"},
        "Das ist ein ganz einfacher deutscher Satz.",
        "This is an English one.",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_a_checker_tells_a_text_that_follows_from_one_that_does_not(name: str):
    arguments, good, bad = CASES[name]
    assert follows(name, good, arguments)
    assert not follows(name, bad, arguments)
    assert not follows(name, " \n", arguments)


@pytest.mark.parametrize("name", LANGUAGE_CASES)
def test_languages_are_told_apart(name: str):
    pytest.importorskip("langdetect")
    arguments, good, bad = LANGUAGE_CASES[name]
    assert follows(name, good, arguments)
    assert not follows(name, bad, arguments)


def test_every_checker_has_a_case():
    assert set(CASES) | set(LANGUAGE_CASES) == set(CHECKERS)
    assert len(CHECKERS) == 25


def test_loosely_a_first_or_last_line_and_asterisks_do_not_count():
    assert follows_loosely("startend:quotation", 'Sure, here it is:\n**"Quoted"**', {})
    assert not follows("startend:quotation", 'Sure, here it is:\n**"Quoted"**', {})


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("", 0),
        ("One", 1),
        ("Mr. Smith left at 5 p.m. today. He ran!", 2),
        ("Wait... what? Yes.", 2),
        ('"Go." He went.', 2),
    ],
)
def test_sentences_are_counted_offline(text: str, count: int):
    assert count_sentences(text) == count
