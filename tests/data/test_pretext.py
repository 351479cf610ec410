import dataclasses
import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from tests.data import bad_videos
from tgvlm_jax.data import pretext, windows
from tgvlm_jax.data.augment import resize
from tgvlm_jax.data.pretext import AnomalyGrounding, answer, question, sentences
from tgvlm_jax.data.shard_writer import write_shards
from tgvlm_jax.data.shards import open_shards
from tgvlm_jax.grounding.spans import seconds_to_frames
from tgvlm_jax.schema import ANOMALY_KINDS, DataConfig
from tgvlm_jax.types import InputError

SIZE = (24, 36)
STEP = 0.08  # seconds between stored frames
SKIPPED = ((2.1, 2.15), (7.0, 7.5))  # the first one falls between two frames
CONFIG = DataConfig(
    fps=12.5,
    frames=(8, 14),
    strides=(1, 2, 3),
    train_span=(0.0, 0.6),
    eval_span=(0.6, 1.0),
    skip_seconds=SKIPPED,
)
# Nothing is changed about a clip as a whole, but that it may be mirrored.
PLAIN = dataclasses.replace(CONFIG, crop=1.0, jitter=0.0)


def source(film, *, split="train", seed=3, config=CONFIG):
    return AnomalyGrounding(film, config, size=SIZE, split=split, seed=seed)


def assert_same(one, other):
    for field in dataclasses.fields(one):
        np.testing.assert_array_equal(
            getattr(one, field.name), getattr(other, field.name), err_msg=field.name
        )


def whole(film, sample):
    """The clip of a sample before anything was changed, at its size."""
    seconds = film.seconds(sample.video)
    numbers = np.searchsorted(seconds, sample.seconds)
    np.testing.assert_array_equal(seconds[numbers], sample.seconds)
    stored = [film.frames(sample.video, int(n), int(n) + 1)[0] for n in numbers]
    return resize(np.stack(stored), SIZE)


# ------------------------------------------------------------------------------------ one sample


@pytest.mark.parametrize("split", ["train", "eval"])
def test_a_sample_follows_from_seed_and_index_alone(film, split):
    """In any order, from threads, and after a trip through pickle."""
    made = source(film, split=split)
    first = [made.sample(index, frames=14) for index in range(24)]
    again = source(film, split=split)
    for index in reversed(range(24)):
        assert_same(again.sample(index, frames=14), first[index])
    with ThreadPoolExecutor(8) as pool:
        several = list(pool.map(lambda index: made.sample(index % 24, frames=14), range(96)))
    for index, sample in enumerate(several):
        assert_same(sample, first[index % 24])
    copy = pickle.loads(pickle.dumps(made))
    assert_same(copy.sample(5, frames=14), first[5])


@pytest.mark.parametrize("split", ["train", "eval"])
def test_other_indices_seeds_and_splits_give_other_samples(film, split):
    made = [source(film, split=split, seed=seed).sample(k, frames=8).frames.tobytes()
            for seed in range(3) for k in range(40)]  # fmt: skip
    assert len(set(made)) == len(made)


@pytest.mark.parametrize("split", ["train", "eval"])
def test_without_pixels_all_else_is_the_same(film, split):
    made = source(film, split=split)
    for index in range(30):
        full = made.sample(index, frames=8)
        light = made.sample(index, frames=8, pixels=False)
        assert light.frames.shape == (8, 0, 0, 3)
        assert_same(dataclasses.replace(full, frames=light.frames), light)


def test_shape_and_text(film):
    for index in range(60):
        sample = source(film).sample(index, frames=14)
        assert sample.frames.shape == (14, *SIZE, 3)
        assert sample.frames.dtype == np.uint8
        assert sample.seconds.shape == (14,)
        assert sample.answer == answer(sample.kind)
        assert sample.question in [question(sample.kind, form=form) for form in range(4)]
        assert sample.spans.shape == (1, 2)
        assert sample.answer.count("<evi>") == 2
        assert sample.video in ("one", "two")
        assert sample.seconds[-1] < sample.duration <= film.video(sample.video).duration


def test_every_sentence_differs():
    assert len(set(sentences())) == len(sentences()) == 5 * len(ANOMALY_KINDS)


# ------------------------------------------------------------------- spans are what was changed


# These always change every frame; the others may put a frame where it was.
THOROUGH = ("grayscale", "invert", "channel_swap", "rotate180", "mirror", "noise", "blur",
            "saturation", "zoom_in", "zoom_out")  # fmt: skip


@pytest.mark.parametrize("split", ["train", "eval"])
@pytest.mark.parametrize("kind", ANOMALY_KINDS)
def test_exactly_the_frames_of_the_span_differ(film, kind, split):
    config = dataclasses.replace(PLAIN, kinds=(kind,))
    made = source(film, split=split, config=config)
    lengths = []
    for index in range(12):
        sample = made.sample(index, frames=14)
        clean = whole(film, sample)
        if split == "train":  # which may be mirrored; an unchanged frame says whether
            sides = (clean, clean[:, :, ::-1])
            same = [np.all(side == sample.frames, axis=(1, 2, 3)) for side in sides]
            clean = sides[int(same[1].sum() > same[0].sum())]
        differs = np.any(sample.frames != clean, axis=(1, 2, 3))
        ((first, last),) = seconds_to_frames(
            sample.spans, sample.seconds, duration=sample.duration
        ).tolist()
        lengths.append(last - first + 1)
        assert not differs[:first].any()
        assert not differs[last + 1 :].any()
        assert differs.any()
        if kind in THOROUGH:
            assert differs[first : last + 1].all()
        assert sample.spans[0, 0] == sample.seconds[first]
        ends = [*sample.seconds[1:], sample.duration]
        assert sample.spans[0, 1] == ends[last]
    assert min(lengths) >= 2
    assert max(lengths) <= round(14 / 3)


@pytest.mark.parametrize("split", ["train", "eval"])
def test_a_change_that_changes_nothing_leaves_no_trace(film, split, monkeypatch):
    """The pixels of a stretch pass no step that those of other frames do not pass."""
    seen = []

    def untouched(clip, kind, *, rng):
        seen.append(len(clip))
        return clip

    monkeypatch.setattr(pretext, "perturb", untouched)
    made = source(film, split=split, config=PLAIN)
    for index in range(20):
        sample = made.sample(index, frames=14)
        clean = whole(film, sample)
        assert any(np.array_equal(sample.frames, side) for side in (clean, clean[:, :, ::-1]))
    assert len(seen) == 20


def test_crop_flip_and_colours_are_those_of_the_whole_clip(film, monkeypatch):
    """With an anomaly or without, the frames around it look the same."""
    with_it = [source(film).sample(index, frames=14) for index in range(10)]
    monkeypatch.setattr(pretext, "perturb", lambda clip, kind, *, rng: clip)
    for index, sample in enumerate(with_it):
        without = source(film).sample(index, frames=14)
        ((first, last),) = seconds_to_frames(
            sample.spans, sample.seconds, duration=sample.duration
        ).tolist()
        around = np.r_[0:first, last + 1 : 14]
        np.testing.assert_array_equal(sample.frames[around], without.frames[around])
        assert np.any(sample.frames != without.frames)
        assert np.any(without.frames != whole(film, without))


def test_given_frames_are_not_the_stored_ones(film):
    """Whoever writes into a sample does not change the next one."""
    config = dataclasses.replace(PLAIN, kinds=("mirror",))
    made = AnomalyGrounding(film, config, size=(30, 60), split="eval", seed=0)
    before = made.sample(0, frames=14)
    made.sample(0, frames=14).frames[:] = 0
    assert_same(made.sample(0, frames=14), before)


# ------------------------------------------------------------------------------------ where from


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("split", ["train", "eval"])
def test_clips_keep_to_their_part_of_the_video(film, split, stride):
    config = dataclasses.replace(CONFIG, strides=(stride,), frames=(8,))
    made = source(film, split=split, config=config)
    low, high = (0.0, 6.0) if split == "train" else (6.0, 10.0)
    starts = set()
    for index in range(800):
        sample = made.sample(index, frames=8, pixels=False)
        times = sample.seconds
        starts.add((sample.video, times[0]))
        np.testing.assert_allclose(np.diff(times), stride * STEP, atol=1e-6)
        assert low <= times[0] <= times[-1] < high
        shown_until = times[-1] + STEP
        for start, end in SKIPPED:
            assert shown_until <= start + 1e-6 or times[0] >= end
    assert {video for video, _ in starts} == {"one", "two"}
    # Not one place too few either: every clip that keeps to the rules does turn up.
    seconds = film.seconds("one")
    reach = 7 * stride + 1
    allowed = [
        seconds[k] for k in range(len(seconds) - reach + 1)
        if low <= seconds[k] and seconds[k + reach - 1] < high
        and all(seconds[k + reach - 1] + STEP <= start + 1e-6 or seconds[k] >= end
                for start, end in SKIPPED)
    ]  # fmt: skip
    assert {time for _, time in starts} == set(allowed)


def test_clips_keep_clear_of_frames_that_a_slow_film_repeats(tmp_path):
    held = [*np.arange(0, 3, 0.1), *np.arange(3, 5, 0.5), *np.arange(5, 10, 0.1)]
    path = bad_videos.synthetic(tmp_path / "slow.mp4", held)
    settings = {"fps": 8.0, "height": 16, "width": 16, "progress": False}
    write_shards([path], tmp_path / "shards", **settings)
    shards = open_shards(tmp_path / "shards")
    assert np.any(np.diff(shards.seconds("slow")) == 0)
    config = dataclasses.replace(CONFIG, fps=8.0, skip_seconds=(), frames=(8,), strides=(1, 2))
    made = source(shards, config=config)
    samples = [made.sample(index, frames=8, pixels=False) for index in range(200)]
    assert all(np.all(np.diff(sample.seconds) > 0) for sample in samples)
    assert all(sample.duration > sample.seconds[-1] for sample in samples)
    assert {sample.seconds[0] > 4 for sample in samples} == {True, False}


def test_the_end_of_a_clip_is_the_next_frame_or_the_end_of_the_video(film):
    made = source(film, split="eval", config=dataclasses.replace(CONFIG, skip_seconds=()))
    ends = {made.sample(k, frames=14, pixels=False).duration for k in range(200)}
    assert 10.0 in ends
    assert len(ends) > 5
    for index in range(50):
        sample = made.sample(index, frames=14, pixels=False)
        assert sample.duration - sample.seconds[-1] == pytest.approx(STEP, abs=1e-6)


def test_eval_takes_the_first_stride_and_kinds_in_turn(film):
    made = source(film, split="eval")
    samples = [made.sample(index, frames=8, pixels=False) for index in range(30)]
    assert [s.kind for s in samples] == [ANOMALY_KINDS[k % 12] for k in range(30)]
    assert all(np.allclose(np.diff(s.seconds), STEP, atol=1e-6) for s in samples)


def test_training_draws_every_kind_and_stride(film):
    made = source(film)
    samples = [made.sample(index, frames=8, pixels=False) for index in range(200)]
    assert {s.kind for s in samples} == set(ANOMALY_KINDS)
    assert {round(float(s.seconds[1] - s.seconds[0]) / STEP) for s in samples} == {1, 2, 3}


def test_a_stride_without_room_is_left_out(film):
    config = dataclasses.replace(CONFIG, strides=(1, 40), skip_seconds=())
    made = source(film, config=config)
    times = made.sample(0, frames=14, pixels=False).seconds
    np.testing.assert_allclose(np.diff(times), STEP, atol=1e-6)


@pytest.mark.parametrize(
    ("change", "seed", "message"),
    [
        ({"frames": (8, 80)}, 0, "no video has room for a training clip of 80 frames"),
        ({"train_span": (0.0, 0.05)}, 0, "no video has room for a training clip of 8 frames"),
        ({"skip_seconds": ((0.0, 6.0),)}, 0, "no video has room"),
        ({"frames": (3, 8)}, 0, r"data\.frames=\(3, 8\): a clip needs at least 4 frames"),
        ({}, -1, "seed=-1: give 0 or more"),
    ],
)
def test_what_cannot_be_asked_for(film, change, seed, message):
    with pytest.raises(InputError, match=message) as caught:
        source(film, seed=seed, config=dataclasses.replace(CONFIG, **change))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("frames", range(4, 13))
def test_short_clips_have_two_wrong_frames_at_least(film, frames):
    made = source(film, config=dataclasses.replace(CONFIG, frames=(frames,)))
    for index in range(40):
        sample = made.sample(index, frames=frames, pixels=False)
        ((first, last),) = seconds_to_frames(
            sample.spans, sample.seconds, duration=sample.duration
        ).tolist()
        assert 2 <= last - first + 1 <= max(2, frames / 3 + 0.5)


def test_frames_are_kept_decoded_within_a_budget(film, monkeypatch):
    """A budget of nothing gives the same samples."""
    kept = source(film).sample(7, frames=14)
    monkeypatch.setattr(windows, "_KEPT_BYTES", 0)
    assert_same(source(film).sample(7, frames=14), kept)
    monkeypatch.setattr(windows, "_KEPT_BYTES", 10 * 30 * 60 * 3)
    few = source(film)
    for index in range(10):
        few.sample(index, frames=14)
    assert_same(few.sample(7, frames=14), kept)
    assert few.windows._frame.cache_info().currsize <= 10
