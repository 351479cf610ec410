import numpy as np
import pytest

from tgvlm_jax.evaluation.event_answers import EventAnswer, captions, score
from tgvlm_jax.types import InputError

TRUTH = "<evi><evi></evi> <evi> carries the red ball. <evi> opens the door."
TIMES = np.array([[0.0, 4.0], [6.0, 8.0]])


def answered(text, spans):
    return EventAnswer(
        text=text, truth=TRUTH, spans=np.array(spans, float).reshape(-1, 2), true_spans=TIMES
    )


def test_the_truth_scores_full_marks():
    found = score([answered(TRUTH, TIMES)])
    assert (found.mean_iou, found.f1, found.f1_said, found.said, found.count) == (1, 1, 1, 1, 1)


def test_times_and_words_count_apart():
    wrong = TRUTH.replace("red", "blue")
    found = score([answered(wrong, TIMES)])
    assert (found.mean_iou, found.f1, found.f1_said, found.said) == (1, 1, 0.5, 0)
    late = score([answered(TRUTH, np.add(TIMES, [[3.0], [0.0]]))])  # [3, 7] and [6, 8]
    assert late.f1 == late.f1_said == pytest.approx(0.5)
    assert late.mean_iou == pytest.approx((1 / 7 + 1) / 2)
    assert late.said == 1


def test_events_are_paired_by_time_and_not_by_order():
    swapped = "<evi><evi></evi> <evi> opens the door. <evi> carries the red ball."
    found = score([answered(swapped, TIMES[::-1])])
    assert (found.f1, found.f1_said, found.said) == (1, 1, 0)


def test_missing_and_surplus_events_cost():
    one = answered("<evi></evi> <evi> carries the red ball.", TIMES[:1])
    assert score([one]).f1 == pytest.approx(2 / 3)
    assert score([one]).mean_iou == 0.5
    many = answered(TRUTH + " <evi> waits.", [*TIMES, [9.0, 10.0]])
    assert score([many]).f1 == pytest.approx(4 / 5)
    silent = score([answered("", [])])
    assert (silent.mean_iou, silent.f1, silent.said) == (0, 0, 0)
    assert score([one, many]).f1 == pytest.approx(2 * 3 / 8)  # pooled, not a mean of means
    with pytest.raises(InputError, match="no answers"):
        score([])


def test_what_is_said_of_an_event():
    assert captions(TRUTH) == ["carries the red ball", "opens the door"]
    assert captions("<evi></evi> It carries the ball in <evi>.") == ["It carries the ball in"]
    assert captions("</evi> It waits.") == []
    assert captions("<evi> walks") == ["walks"]
