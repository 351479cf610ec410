"""ROUGE by hand."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tgvlm_jax.text import rouge

TRUTH = ["the", "quick", "brown", "fox", "jumps", "over", "the", "lazy", "dog"]
ANSWER = ["the", "quick", "brown", "dog", "jumps", "on", "the", "log"]


def test_scores_by_hand():
    assert rouge.rouge_n(ANSWER, TRUTH, n=1) == pytest.approx(2 * 6 / (8 + 9))
    assert rouge.rouge_n(ANSWER, TRUTH, n=2) == pytest.approx(2 * 2 / (7 + 8))
    assert rouge.rouge_l(ANSWER, TRUTH) == pytest.approx(2 * 5 / (8 + 9))


def test_a_word_counts_as_often_as_both_have_it():
    assert rouge.rouge_n(["the"] * 4, ["the", "the", "fox"], n=1) == pytest.approx(2 * 2 / (4 + 3))


@pytest.mark.parametrize("other", [[], ["cat"]])
def test_nothing_in_common_scores_nothing(other):
    for score in (rouge.rouge_l(other, TRUTH), rouge.rouge_n(other, TRUTH, n=1)):
        assert score == 0
    assert rouge.rouge_n(["one"], ["one"], n=2) == 0


def test_tokens_are_runs_of_letters_and_digits():
    assert rouge.tokens("It's 3.5 Cats—running; café") == [
        "it", "s", "3", "5", "cats", "running", "caf"
    ]  # fmt: skip
    assert rouge.tokens("Cats running has", stem=True) == ["cat", "run", "has"]


words = st.lists(st.sampled_from("abcd"), max_size=8)


@given(words, words)
def test_scores_are_symmetric_shares(one, other):
    for score in (rouge.rouge_l, lambda a, b: rouge.rouge_n(a, b, n=2)):
        assert 0 <= score(one, other) <= 1
        assert score(one, other) == score(other, one)
    if one:
        assert rouge.rouge_l(one, one) == 1
