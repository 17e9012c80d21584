"""The option that a text answers with. Cases are ours; the originals' replies are compared in benchmarks/."""

import pytest

from ossia.evals.answers.choices import choice_of

CLEAR = {
    "Answer: B": "B",
    "**Answer:** C": "C",
    "**Answer: (D)**": "D",
    "*Answer* – A": "A",
    "Final Answer: **B**": "B",
    "The answer is C.": "C",
    "The correct option is (B), since energy is conserved.": "B",
    "ANSWER: d": "D",
    "Answer: $\\text{C}$": "C",
    "Answer: $\\boxed{A}$": "A",
    "\\boxed{\\textbf{(D)}}": "D",
    "\\boxed{\\text{A } 2.08\\times10^{-6}\\,\\mathrm{m}}": "A",
    "Respuesta: B": "B",
    "La respuesta correcta es: C": "C",
    "Réponse : D": "D",
    "Antwort: A": "A",
    "答案：B": "B",
    "正确答案是B选项": "B",
    "答え：Ｃ": "C",
    "정답: D": "D",
    "الإجابة: ب": "B",
    "উত্তর: ড": "C",
    "উত্তর: গ": "C",
    "उत्तर: A": "A",
    "Ìdáhùn: B": "B",
    "Option B": "B",
    "Svar: C": "C",
    "**D) the mass of the sun**": "D",
    "It is the second law.\n\nB": "B",
    "B. The cell divides.": "B",
    "A is wrong, C is right": "C",
    "Was it (A) or (B)? [C]": "C",
}
LAST_WINS = {
    "Answer: A\n\nLet me check again.\n\nAnswer: D": "D",
    "The last line should be 'Answer: A'. So:\nAnswer: B": "B",
    "Choice: C\nAnswer: B": "B",
    "\\boxed{C}\n\nB) is close, but too large.": "C",
}
NONE = [
    "",
    "A gas expands when it is heated.",
    "Because the cell divides.",
    "Answer: Depends on the temperature",
    "The answer is a matter of taste.",
    "The last line should be 'Answer: A'.",
    "Answer: A or B",
    "Answer: B and C",
    "Answer: not B",
    "A) red\nB) green\nC) blue\nD) grey",
    "Either (A) or (B) would do.",
    "Oranges hold vitamin C.",
    "I can't answer that.",
    "Answer:",
    "\\boxed{AB}",
]


@pytest.mark.parametrize(("text", "letter"), {**CLEAR, **LAST_WINS}.items())
def test_an_option_is_found_in_every_usual_form(text: str, letter: str):
    found = choice_of(text)
    assert found is not None
    assert found.letter == letter


@pytest.mark.parametrize("text", NONE)
def test_a_text_without_one_answer_gives_none(text: str):
    assert choice_of(text) is None


def test_long_texts_are_read_in_bounded_time():
    choice_of("Answer: " * 10_000)
    for run in ("*", "(", "\n", " ", "A.", "**A", "Answer", "\\boxed{"):
        choice_of(run * 20_000)
