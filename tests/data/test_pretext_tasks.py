"""Pretext samples: what is asked is in the frames, and nothing else gives it away."""

import io
import random
import re

import numpy as np
import pytest
from PIL import Image

from tgvlm_jax.data import pretext_plans, pretext_tasks
from tgvlm_jax.data.pretext_plans import AnomalyLevel, CountingLevel, JigsawLevel
from tgvlm_jax.rewards import videossr
from tgvlm_jax.types import InputError

FRAMES = 24
LEVEL = AnomalyLevel(frames=FRAMES, shortest=4, longest=8)
MOVED = ("shuffle", "stutter", "swap")
KINDS = pretext_plans.RELEASED_KINDS


def film(seed=0, frames=FRAMES, height=40, width=64):
    """Something that moves: a smooth random picture under a window."""
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 256, (height // 8, (width + 4 * frames) // 8, 3), dtype=np.uint8)
    wide = Image.fromarray(small).resize((width + 4 * frames, height), Image.Resampling.BICUBIC)
    pixels = np.asarray(wide)
    return np.stack([pixels[:, 4 * i : 4 * i + width] for i in range(frames)])


def grounding(kind, seed=0, clip=None):
    rng, noise = pretext_tasks.generators(seed, 7)
    return pretext_tasks.grounding(
        film() if clip is None else clip,
        kind,
        fps=2.0,
        rng=rng,
        noise=noise,
        level=LEVEL,
        other=film(1) if kind == "swap" else None,
    )


@pytest.mark.parametrize("kind", KINDS)
def test_a_stretch_is_changed_and_the_rest_is_not(kind):
    sample = grounding(kind)
    (shown,), clip = sample.clips, film()
    start, end = (round(2 * time) for time in videossr.read_interval(sample.answer))
    stretch = np.zeros(FRAMES, bool)
    stretch[start:end] = True
    np.testing.assert_array_equal(shown[~stretch], clip[~stretch])
    changed = np.any(shown != clip, axis=(1, 2, 3))[stretch]
    assert changed.any() if kind in ("shuffle", "stutter") else changed.all()
    np.testing.assert_allclose(sample.seconds[0], np.arange(FRAMES) / 2)


@pytest.mark.parametrize("kind", KINDS)
def test_a_seed_makes_the_same_sample(kind):
    one, again, other = grounding(kind, 3), grounding(kind, 3), grounding(kind, 4)
    assert one.answer == again.answer
    np.testing.assert_array_equal(one.clips[0], again.clips[0])
    assert np.any(one.clips[0] != other.clips[0])


def test_a_quarter_turn_fits_into_its_frame():
    frame = film()[0]
    turned = np.rot90(frame, -1)
    inside = pretext_tasks.fit(turned, frame)
    assert inside.shape == frame.shape
    columns = np.flatnonzero(inside.any(axis=(0, 2)))
    assert columns[-1] - columns[0] + 1 == round(40 * 40 / 64)
    np.testing.assert_array_equal(pretext_tasks.fit(frame, film()[1]), frame)


@pytest.mark.parametrize("kind", ["slow", "fast"])
def test_speed_is_drawn_first_and_filmed_then(kind):
    with pytest.raises(InputError, match="frames of the video"):
        grounding(kind)
    rng, noise = pretext_tasks.generators(0, 0)
    plan = pretext_plans.plan_anomaly(kind, rng, level=LEVEL)
    seconds = pretext_plans.source_seconds(plan, start=0, end=FRAMES)
    clip = film(frames=3 * FRAMES)[np.round(seconds).astype(int)]
    sample = pretext_tasks.of_plan(clip, plan, fps=2.0, rng=rng, noise=noise)
    np.testing.assert_array_equal(sample.clips[0], clip)
    assert "evenly spaced" in sample.question


def test_shapes_are_drawn_on_the_frames_of_the_plan():
    level = CountingLevel(frames=FRAMES, apart=3)
    sample = pretext_tasks.counting(film(), fps=2.0, rng=random.Random(5), level=level)
    plan = pretext_plans.plan_counting(random.Random(5), level=level)
    changed = np.any(sample.clips[0] != film(), axis=(1, 2, 3))
    assert set(np.flatnonzero(changed)) == {mark.frame for mark in plan.marks}
    assert sample.answer == plan.answer()


def test_clips_are_shown_out_of_order_and_each_starts_at_zero():
    sample = pretext_tasks.jigsaw(
        film(), fps=2.0, rng=random.Random(5), level=JigsawLevel(frames=FRAMES, clips=4)
    )
    ordered = np.concatenate([sample.clips[int(digit) - 1] for digit in sample.answer])
    np.testing.assert_array_equal(ordered, film())
    for seconds in sample.seconds:
        np.testing.assert_allclose(seconds, np.arange(6) / 2)
    lines = pretext_tasks.prompt_lines(sample, video="<video>")
    assert lines[:4] == tuple(f"Clip {i}: <video>" for i in range(1, 5))
    assert lines[4] == sample.question


@pytest.mark.parametrize("kind", [*KINDS, "slow", "fast"])
def test_the_form_that_a_question_asks_for_is_the_one_that_is_rewarded(kind):
    example = pretext_tasks.anomaly_question(kind).removesuffix(".").split()[-1]
    assert videossr.grounding(example, "14.0-26.0")["readable"]


def test_the_forms_of_counts_and_orders_too():
    example = pretext_tasks.counting_question().removesuffix(".").split()[-1]
    assert videossr.counting(example, "1,1,1")["readable"]
    for clips in (6, 8):
        (example,) = re.findall(r"\d{2,}", pretext_tasks.jigsaw_question(clips))
        truth = "".join(map(str, range(1, clips + 1)))
        assert videossr.jigsaw(example, truth)["readable"]


def test_a_clip_of_another_length_is_refused():
    with pytest.raises(InputError, match="a clip of 23 frames where the level has 24"):
        grounding("mirror", clip=film()[1:])


def jpeg(frame, quality):
    file = io.BytesIO()
    Image.fromarray(frame).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file))


def blockiness(clip):
    """How much larger steps between columns are on the borders of JPEG's blocks."""
    steps = np.abs(np.diff(clip.astype(np.int32).sum(axis=-1), axis=2)).mean(axis=1)
    border = np.arange(1, clip.shape[2]) % 8 == 0
    return steps[:, border].mean(axis=1) - steps[:, ~border].mean(axis=1)


def detect(clip, length=6):
    """The stretch that looks compressed most: an answer without looking at the content."""
    level = blockiness(clip)
    means = np.convolve(level, np.full(length, 1 / length), mode="valid")
    start = int(means.argmax())
    return f"{start / 2}-{(start + length) / 2}"


def test_compression_does_not_give_the_answer_away():
    """A detector of compression is at chance here, and finds what was written a second time."""
    mine, released = [], []
    for seed in range(24):
        # A picture that stands still, but for the noise of a camera: content gives no hint.
        rng = np.random.default_rng(seed)
        noise = rng.normal(0, 3, (FRAMES, 40, 64, 3))
        still = np.clip(film(seed, frames=1) + noise, 0, 255).astype(np.uint8)
        clip = np.stack([jpeg(frame, 95) for frame in still])
        sample = grounding(("mirror", "channel_swap", "rotate180")[seed % 3], seed, clip)
        (shown,) = sample.clips
        start, end = (round(2 * time) for time in videossr.read_interval(sample.answer))
        again = shown.copy()
        again[start:end] = [jpeg(frame, 75) for frame in shown[start:end]]
        mine.append(videossr.grounding(detect(shown), sample.answer)["smooth"])
        released.append(videossr.grounding(detect(again), sample.answer)["smooth"])
    assert np.mean(mine) < 0.3  # blind answers earn up to 0.31
    assert np.mean(released) > 0.6
