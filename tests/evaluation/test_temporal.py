"""Scores against values worked out by hand, blind ones against brute force."""

import numpy as np
import pytest

from tgvlm_jax.evaluation import temporal
from tgvlm_jax.types import InputError


def test_scores_by_hand():
    found = temporal.score(np.array([1.0, 0.5, 0.3, 0.0]))
    assert found.mean_iou == pytest.approx(0.45)
    assert found.recall == {0.3: 0.75, 0.5: 0.5, 0.7: 0.25}
    assert found.count == 4
    assert found.to_json() == {
        "mean_iou": pytest.approx(0.45),
        "recall@0.3": 0.75,
        "recall@0.5": 0.5,
        "recall@0.7": 0.25,
        "count": 4,
    }


def test_many_draws_for_a_question_count_once():
    found = temporal.score(np.array([[1.0, 0.0], [0.6, 0.6], [0.0, 0.0]]))
    assert found.count == 3
    assert found.mean_iou == pytest.approx(2.2 / 6)
    assert found.recall[0.5] == pytest.approx(3 / 6)


def test_kinds_come_the_easiest_first():
    ious = np.array([0.2, 0.9, 0.4, 0.7, 0.5])
    found = temporal.score_kinds(ious, ["noise", "invert", "noise", "invert", "blur"])
    assert list(found) == ["invert", "blur", "noise"]
    assert [scores.count for scores in found.values()] == [2, 1, 2]
    means = [scores.mean_iou for scores in found.values()]
    assert means == pytest.approx([0.8, 0.5, 0.3])


def test_nothing_to_score_is_refused():
    with pytest.raises(InputError, match="the evaluation set is empty"):
        temporal.score(np.zeros(0))


def overlap(a, b):
    both = max(0.0, min(a[1], b[1]) - max(a[0], b[0]))
    return both / (a[1] - a[0] + b[1] - b[0] - both)


def test_blind_answers_against_brute_force():
    rng = np.random.default_rng(5)
    durations = rng.uniform(4, 30, 12)
    truths = np.sort(rng.uniform(size=(12, 2)), axis=1) * durations[:, None]
    shares = truths / durations[:, None]
    found = temporal.blind(truths[:, None], durations)
    assert list(found) == ["best constant interval", "whole clip", "random interval"]

    grid = np.arange(61) / 60
    answers = [(start, end) for start in grid for end in grid if end > start]
    tables = np.array([[overlap(answer, truth) for truth in shares] for answer in answers])
    best = tables[tables.mean(axis=1).argmax()]
    assert found["best constant interval"].mean_iou == pytest.approx(best.mean())
    assert found["best constant interval"].recall[0.5] == pytest.approx((best >= 0.5).mean())

    whole = np.array([end - start for start, end in shares])
    assert found["whole clip"].mean_iou == pytest.approx(whole.mean())
    assert found["whole clip"].recall[0.3] == pytest.approx((whole >= 0.3).mean())

    middles = (np.arange(80) + 0.5) / 80
    pairs = [(min(a, b), max(a, b)) for a in middles for b in middles]
    drawn = np.array([[overlap(pair, truth) for pair in pairs] for truth in shares])
    assert found["random interval"].mean_iou == pytest.approx(drawn.mean(), abs=4e-3)
    assert found["random interval"].recall[0.5] == pytest.approx((drawn >= 0.5).mean(), abs=1e-2)
    assert all(scores.count == 12 for scores in found.values())


def test_a_blind_answer_is_judged_on_the_clips_own_clock():
    """The same clips twice as slow score the same."""
    truths, durations = np.array([[1.0, 3.0], [2.0, 6.0]]), np.array([5.0, 8.0])
    once, twice = (
        temporal.blind(truths[:, None], durations),
        temporal.blind(2 * truths[:, None], 2 * durations),
    )
    for name in once:
        assert once[name].mean_iou == pytest.approx(twice[name].mean_iou)
