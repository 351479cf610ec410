"""Span algebra: known values, bounds, symmetry, and the way between frames and seconds."""

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from tgvlm_jax.grounding import spans
from tgvlm_jax.types import InputError

SPAN = st.tuples(st.floats(0, 100), st.floats(0, 100)).map(sorted)


def spans_of(count):
    return st.lists(SPAN, min_size=count[0], max_size=count[1]).map(
        lambda rows: np.array(rows, np.float64).reshape(-1, 2)
    )


@st.composite
def clips(draw):
    """Frame times with uneven gaps, and the duration."""
    gaps = draw(st.lists(st.floats(0.01, 2.0), min_size=1, max_size=20))
    start = draw(st.floats(0, 5))
    bounds = start + np.concatenate([[0.0], np.cumsum(gaps)])
    return bounds[:-1], float(bounds[-1])


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        ([0, 10], [5, 15], 1 / 3),
        ([0, 10], [2, 4], 0.2),
        ([0, 1], [1, 2], 0.0),
        ([0, 1], [5, 9], 0.0),
        ([3, 7], [3, 7], 1.0),
        ([3, 3], [3, 3], 0.0),
    ],
)
def test_iou(a, b, expected):
    a, b = np.array(a, np.float64), np.array(b, np.float64)
    assert spans.iou(a, b) == pytest.approx(expected)
    assert spans.union_iou(a[None], b[None]) == pytest.approx(expected)


@hypothesis.given(a=spans_of((1, 6)), b=spans_of((1, 6)))
def test_iou_is_symmetric_and_bounded(a, b):
    overlap = spans.pairwise_iou(a, b)
    assert overlap.shape == (len(a), len(b))
    assert np.all((overlap >= 0) & (overlap <= 1 + 1e-12))
    np.testing.assert_allclose(overlap, spans.pairwise_iou(b, a).T)
    assert spans.union_iou(a, b) == pytest.approx(spans.union_iou(b, a), abs=1e-9)
    assert -1e-9 <= spans.union_iou(a, b) <= 1 + 1e-9


@hypothesis.given(a=spans_of((0, 8)))
def test_merge_covers_the_same_instants_with_disjoint_sorted_spans(a):
    before = a.copy()
    merged = spans.merge(a)
    np.testing.assert_array_equal(a, before)
    assert np.all(merged[1:, 0] > merged[:-1, 1])
    instants = np.unique(np.concatenate([a.ravel(), np.linspace(0, 100, 57)]))

    def covered(rows):
        return ((rows[:, :1] <= instants) & (instants <= rows[:, 1:])).any(axis=0)

    np.testing.assert_array_equal(covered(merged), covered(a))


def test_match_takes_the_best_total_not_the_best_first_pair():
    truths = np.array([[0.0, 10.0], [8.0, 20.0]])
    predictions = np.array([[4.0, 16.0], [0.0, 9.0], [50.0, 60.0]])
    found = spans.match(predictions, truths)
    assert found.predictions.tolist() == [0, 1]
    assert found.truths.tolist() == [1, 0]
    np.testing.assert_allclose(found.ious, [0.5, 0.9])


@hypothesis.given(a=spans_of((0, 5)), b=spans_of((0, 5)))
def test_match_is_one_to_one_and_at_least_as_good_as_greedy(a, b):
    found = spans.match(a, b)
    assert len(set(found.predictions.tolist())) == len(found.predictions)
    assert len(set(found.truths.tolist())) == len(found.truths)
    rest, greedy = spans.pairwise_iou(a, b).copy(), 0.0
    while rest.size and rest.max() > 0:
        row, column = np.unravel_index(rest.argmax(), rest.shape)
        greedy += rest[row, column]
        rest[row], rest[:, column] = 0, 0
    assert found.ious.sum() >= greedy - 1e-9


def test_averages_count_the_threshold_itself():
    ious = np.array([0.0, 0.5, 0.7, 1.0])
    assert spans.mean_iou(ious) == pytest.approx(0.55)
    assert spans.recall_at(ious, 0.5) == 0.75
    with pytest.raises(InputError, match="empty"):
        spans.mean_iou(np.zeros(0))


@hypothesis.given(clip=clips(), data=st.data())
def test_frames_survive_the_way_to_seconds_and_back(clip, data):
    seconds, duration = clip
    first = data.draw(st.integers(0, len(seconds) - 1))
    last = data.draw(st.integers(first, len(seconds) - 1))
    frames = np.array([first, last])
    span = spans.frames_to_seconds(frames, seconds, duration=duration)
    assert span[0] == seconds[first]
    assert span[1] == (duration if last == len(seconds) - 1 else seconds[last + 1])
    # Text rounds times; a third of the smallest gap must not move a bound.
    noise = np.diff(np.append(seconds, duration)).min() / 3
    for shift in (0.0, noise, -noise):
        back = spans.seconds_to_frames(span + shift, seconds, duration=duration)
        np.testing.assert_array_equal(back, frames)


@hypothesis.given(clip=clips(), rows=spans_of((1, 5)))
def test_any_span_gives_frames_of_the_video(clip, rows):
    seconds, duration = clip
    frames = spans.seconds_to_frames(rows, seconds, duration=duration)
    assert np.all((frames >= 0) & (frames < len(seconds)))
    assert np.all(frames[:, 0] <= frames[:, 1])


def test_seconds_to_frames_values():
    seconds = np.arange(6, dtype=np.float64)
    rows = np.array([[1.9, 5.1], [2.4, 2.6], [2.6, 3.3], [-9, -3], [40, 50], [0, 6.0]])
    frames = spans.seconds_to_frames(rows, seconds, duration=6.0)
    assert frames.tolist() == [[2, 4], [2, 2], [2, 2], [0, 0], [5, 5], [0, 5]]


@pytest.mark.parametrize("frames", [[2, 1], [-1, 2], [0, 3]])
def test_ranges_outside_the_video_are_refused(frames):
    with pytest.raises(InputError, match="frame ranges"):
        spans.frames_to_seconds(np.array(frames), np.arange(3.0), duration=3.0)


@pytest.mark.parametrize("span", [[2.0, 1.0], [0.0, np.nan]])
def test_spans_that_are_none_are_refused(span):
    with pytest.raises(InputError, match="finite"):
        spans.seconds_to_frames(np.array(span), np.arange(3.0), duration=3.0)


@pytest.mark.parametrize(("seconds", "duration"), [([], 1.0), ([0, 0.0], 1.0), ([0, 1.0], 1.0)])
def test_times_that_stand_still_are_refused(seconds, duration):
    with pytest.raises(InputError, match="increase"):
        spans.seconds_to_frames(np.array([0.0, 1.0]), np.array(seconds), duration=duration)


def test_seconds_as_points_on_the_axis_of_frames():
    seconds = np.array([1.0, 2.0, 4.0])
    rows = np.array([[1.0, 2.0], [1.5, 3.0], [0.0, 7.0]])
    points = spans.seconds_to_points(rows, seconds, duration=5.0)
    np.testing.assert_allclose(points, [[0, 1], [0.5, 1.5], [-1 / 1.5, 2 + 3 / 1.5]])
    frames = np.array([[0, 1], [2, 2]])
    back = spans.points_to_seconds(frames, seconds)
    assert back.tolist() == [[1.0, 2.0], [4.0, 4.0]]
    np.testing.assert_allclose(spans.seconds_to_points(back, seconds, duration=5.0), frames)
    with pytest.raises(InputError, match="first <= last"):
        spans.points_to_seconds(np.array([[0, 3]]), seconds)
    with pytest.raises(InputError, match="start <= end"):
        spans.seconds_to_points(np.array([[2.0, 1.0]]), seconds, duration=5.0)
    alone = spans.seconds_to_points(np.array([[0.0, 3.0]]), np.zeros(1), duration=1.5)
    assert alone.tolist() == [[0, 2]]
