"""Scores by question type: what cannot be read first, then the rules."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tgvlm_jax.rewards import answers


@pytest.mark.parametrize("score", [answers.numerical, answers.regression])
@pytest.mark.parametrize("text", ["", "four", "4 apples", "nan", "inf", "1e999", "4..2"])
def test_what_is_no_number_scores_nothing(score, text):
    assert score(text, "4") == 0
    assert score("4", text) == 0


@pytest.mark.parametrize(("text", "score"), [("B", 1), (" B\n", 1), ("b", 0), ("B.", 0), ("", 0)])
def test_a_choice_is_the_very_letter(text, score):
    assert answers.multiple_choice(text, "B") == score


@pytest.mark.parametrize(
    ("text", "truth", "score"),
    [
        ("42", "42", 1),
        ("042", "42", 1),
        ("42.0", "42", 0),  # one with a mark, one without
        ("42.0", "42.004", 1),
        ("42.01", "42.0", 0),
        ("1,000", "1000", 0),
        ("1,000", "1000.0", 1),
    ],
)
def test_numbers_agree_to_two_decimals(text, truth, score):
    assert answers.numerical(text, truth) == score


@pytest.mark.parametrize(
    ("text", "truth", "score"),
    [("8", "10", 0.8), ("30", "10", 0), ("0", "0", 0), ("-5", "-10", 0.5)],
)
def test_regression_is_one_minus_the_relative_error(text, truth, score):
    assert answers.regression(text, truth) == pytest.approx(score, abs=1e-6)


@pytest.mark.parametrize(
    ("text", "truth", "score"),
    [
        ("no entry here", "no entry here", 1),
        ("no entry", "no entry here", 2 / 3),
        ("No entry here", "no entry here", 2 / 3),
        ("entry no here", "no entry here", 1 / 3),
        ("a b c d e f g", "no", 0),
        ("", "no entry", 0),
        ("", "", 1),
    ],
)
def test_ocr_counts_words_to_change(text, truth, score):
    assert answers.ocr(text, truth) == pytest.approx(score)


@given(st.text(), st.text())
def test_every_score_is_a_share(text, truth):
    for score in answers.SCORES.values():
        assert 0 <= score(text, truth) <= 1


def test_the_first_answer_block_counts():
    text = "<answer> A\n</answer> or <answer>B</answer>"
    assert answers.answer_text(text) == "A"
    assert answers.answer_text("A", default="A") == "A"
    assert answers.answer_text("A") == ""
