"""Blind baselines against values known in closed form."""

import numpy as np
import pytest

from tgvlm_jax.grounding import baselines, spans
from tgvlm_jax.types import InputError


def test_a_constant_truth_is_found_whatever_the_duration():
    durations = np.array([10.0, 20.0, 60.0])
    truths = (durations[:, None] * np.array([[0.25, 0.75]]))[:, None]
    span = baselines.best_constant_span(truths, durations)
    np.testing.assert_allclose(span, [0.25, 0.75])
    ious = baselines.constant_ious(truths, durations, span=span)
    np.testing.assert_allclose(ious, 1.0)


def test_no_constant_beats_the_best_one_on_its_own_truths():
    rng = np.random.default_rng(0)
    durations = rng.uniform(5, 50, 80)
    truths = (np.sort(rng.uniform(size=(80, 2)), axis=1) * durations[:, None])[:, None]
    span = baselines.best_constant_span(truths, durations, steps=20)
    best = spans.mean_iou(baselines.constant_ious(truths, durations, span=span))
    for _ in range(50):
        other = np.sort(rng.integers(0, 21, 2)) / 20
        score = spans.mean_iou(baselines.constant_ious(truths, durations, span=other))
        assert score <= best + 1e-12


def test_the_whole_video_scores_the_share_of_the_truth():
    ious = baselines.whole_video_ious(np.array([[[2.0, 6.0]]]), np.array([16.0]))
    np.testing.assert_allclose(ious, [0.25])


def test_random_spans_score_their_expectation():
    # Against the whole video, IoU is the length of the span: mean 1/3, at least 1/2 with
    # probability 1/4.
    ious = baselines.random_ious(np.array([[[0.0, 8.0]]]), np.array([8.0]))
    assert spans.mean_iou(ious) == pytest.approx(1 / 3, abs=1e-3)
    assert spans.recall_at(ious, 0.5) == pytest.approx(1 / 4, abs=2e-3)


def test_random_spans_agree_with_drawn_ones():
    truths, durations = np.array([[1.0, 4.0], [2.0, 3.0]]), np.array([5.0, 8.0])
    drawn = np.sort(np.random.default_rng(0).uniform(size=(40_000, 2)), axis=1)
    expected = spans.pairwise_iou(truths / durations[:, None], drawn).mean(axis=1)
    np.testing.assert_allclose(
        baselines.random_ious(truths[:, None], durations).mean(axis=1), expected, atol=5e-3
    )


def test_nothing_to_score_is_refused():
    with pytest.raises(InputError, match="at least one"):
        baselines.best_constant_span(np.zeros((0, 1, 2)), np.zeros(0))


def test_a_truth_may_be_several_spans():
    """Against the overlap of unions; spans without length fill up a set."""
    truths = np.array([[[1.0, 2.0], [4.0, 7.0]], [[2.0, 3.0], [0.0, 0.0]]])
    span = np.array([[0.15, 0.5]])
    found = spans.cover_iou(span, truths / 10)
    wanted = [spans.union_iou(span, truth / 10) for truth in truths]
    np.testing.assert_allclose(found, [wanted])
    assert baselines.best_constant_span(truths, np.array([10.0, 10.0])).shape == (2,)
