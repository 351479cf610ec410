"""Plans of the pretext tasks: within their levels, answered rightly, the same for the same seed."""

import itertools
import random

import numpy as np
import pytest

from tgvlm_jax.data import pretext_plans
from tgvlm_jax.data.pretext_plans import AnomalyLevel, CountingLevel, JigsawLevel
from tgvlm_jax.rewards import videossr
from tgvlm_jax.types import InputError

KINDS = tuple(dict.fromkeys(pretext_plans.RELEASED_KINDS + pretext_plans.PAPER_KINDS))


def anomaly(kind, seed, **changes):
    return pretext_plans.plan_anomaly(kind, random.Random(seed), others=("b", "c"), **changes)


def test_there_are_fifteen_kinds_in_the_code_and_fourteen_in_the_paper():
    assert len(set(pretext_plans.RELEASED_KINDS)) == 15
    assert len(set(pretext_plans.PAPER_KINDS)) == 14
    assert set(pretext_plans.TRAINED_KINDS) <= set(KINDS)


@pytest.mark.parametrize("kind", KINDS)
def test_a_stretch_lies_in_its_clip(kind):
    level = AnomalyLevel(frames=20, shortest=3, longest=7)
    for seed in range(40):
        plan = anomaly(kind, seed, level=level)
        stretch = range(plan.start, plan.start + plan.length)
        assert 3 <= plan.length <= 7
        assert set(stretch) <= set(range(20))
        assert len(plan.order) == 20
        assert set(plan.order[plan.start : plan.start + plan.length]) <= set(stretch)
        outside = [i for i in range(20) if i not in stretch]
        assert [plan.order[i] for i in outside] == outside
        assert plan == anomaly(kind, seed, level=level)
        assert (plan.other in ("b", "c")) == (kind == "swap")


def test_an_answer_is_the_stretch_in_shown_seconds():
    plan = anomaly("mirror", 0)
    start, end = videossr.read_interval(plan.answer(4.8))
    assert start == pytest.approx(plan.start / 4.8, abs=0.05)
    assert end == pytest.approx((plan.start + plan.length) / 4.8, abs=0.05)


@pytest.mark.parametrize(("kind", "speed"), [("slow", 0.25), ("fast", 3.0)])
def test_a_slow_or_fast_stretch_is_sampled_at_its_speed(kind, speed):
    plan = anomaly(kind, 1, level=AnomalyLevel(slow=0.25, fast=3.0))
    taken = pretext_plans.source_seconds(plan, start=10, end=70)
    steps = np.diff(np.append(taken, 70))
    inside = np.zeros(48, bool)
    inside[plan.start : plan.start + plan.length] = True
    assert taken[0] == 10
    np.testing.assert_allclose(steps[inside], speed * steps[~inside][0])
    np.testing.assert_allclose(steps[~inside], steps[~inside][0])


def test_other_kinds_take_their_frames_evenly():
    plan = anomaly("noise", 1)
    taken = pretext_plans.source_seconds(plan, start=0, end=96)
    np.testing.assert_allclose(taken, 2 * np.arange(48))
    moved = anomaly("shuffle", 1)
    taken = pretext_plans.source_seconds(moved, start=0, end=96)
    np.testing.assert_allclose(taken, 2 * np.asarray(moved.order))


@pytest.mark.parametrize(
    "level", [*pretext_plans.COUNTING.values(), CountingLevel(frames=30, apart=2, instances=7)]
)
def test_shapes_are_spread_over_frames(level):
    for seed in range(60):
        plan = pretext_plans.plan_counting(random.Random(seed), level=level)
        frames = [mark.frame for mark in plan.marks]
        assert len(set(frames)) == len(frames)
        assert set(frames) <= set(range(level.frames))
        assert all(1 <= mark.count <= level.instances for mark in plan.marks)
        for shape in pretext_plans.SHAPES:
            own = [mark.frame for mark in plan.marks if mark.shape == shape]
            assert 1 <= len(own) <= level.appearances
            assert all(abs(a - b) > level.apart for a, b in itertools.combinations(own, 2))
        counts = videossr.read_counts(plan.answer(), kinds=3)
        assert sum(counts) == sum(mark.count for mark in plan.marks)
        assert min(counts) >= 1


@pytest.mark.parametrize("clips", [1, 2, 6, 8])
def test_clips_in_the_order_of_the_answer_are_the_video(clips):
    for seed in range(20):
        plan = pretext_plans.plan_jigsaw(random.Random(seed), level=JigsawLevel(clips=clips))
        ordered = (plan.frames(int(shown) - 1) for shown in plan.answer())
        assert list(itertools.chain.from_iterable(ordered)) == list(range(48))


def test_the_released_sampler_takes_whole_steps_from_the_middle():
    np.testing.assert_array_equal(pretext_plans.sample_frames(250), 12 + 4 * np.arange(48))
    np.testing.assert_array_equal(pretext_plans.sample_frames(60, frames=5), 3 + 10 * np.arange(5))
    with pytest.raises(InputError, match="a video of 50 frames has fewer than 48"):
        pretext_plans.sample_frames(50)


def test_what_cannot_be_planned_is_said():
    rng = random.Random(0)
    with pytest.raises(InputError, match="anomaly 'upside' is not one of grayscale, "):
        pretext_plans.plan_anomaly("upside", rng)
    with pytest.raises(InputError, match="another video"):
        pretext_plans.plan_anomaly("swap", rng)
    for clips in (7, 12):
        with pytest.raises(InputError, match=f"48 frames in {clips} clips"):
            pretext_plans.plan_jigsaw(rng, level=JigsawLevel(clips=clips))
