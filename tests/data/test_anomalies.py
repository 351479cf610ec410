import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageFilter

from tests.data.bad_videos import BIKES
from tgvlm_jax.data import anomalies
from tgvlm_jax.data.anomalies import perturb
from tgvlm_jax.data.video import decode
from tgvlm_jax.schema import ANOMALY_KINDS

LENGTH = 9


@pytest.fixture(scope="module")
def clip():
    pixels = decode(BIKES, fps=3.0, height=50, width=90).pixels[5 : 5 + LENGTH]
    assert len(np.unique(pixels.reshape(LENGTH, -1), axis=0)) == LENGTH
    pixels.flags.writeable = False  # nothing may change the frames it was given
    return pixels


def changed(clip, kind, seed=0):
    return perturb(clip, kind, rng=np.random.default_rng(seed))


@pytest.mark.parametrize("kind", ANOMALY_KINDS)
def test_every_kind(clip, kind):
    """Same shape and type, other pixels, the same from the same generator."""
    got = changed(clip, kind)
    assert (got.shape, got.dtype) == (clip.shape, np.uint8)
    assert np.mean(got != clip) > 0.2
    np.testing.assert_array_equal(got, changed(clip.copy(), kind))
    # Frames are dealt with one by one, whatever surrounds them in memory.
    np.testing.assert_array_equal(got, changed(np.repeat(clip, 2, axis=0)[::2], kind))


@pytest.mark.parametrize("kind", ["noise", "zoom_in", "zoom_out", "shuffle", "stutter"])
def test_random_kinds_follow_the_generator(clip, kind):
    assert any(np.any(changed(clip, kind, 0) != changed(clip, kind, seed)) for seed in range(1, 5))


@pytest.mark.parametrize("kind", sorted(set(ANOMALY_KINDS) - {"shuffle", "stutter"}))
def test_pixel_kinds_act_on_each_frame_alone(clip, kind):
    """Whatever follows in the clip; what random kinds draw for a frame depends on earlier ones."""
    np.testing.assert_array_equal(changed(clip[:4], kind), changed(clip, kind)[:4])


@pytest.mark.parametrize("kind", ["invert", "channel_swap", "rotate180", "mirror"])
def test_twice_is_the_identity(clip, kind):
    np.testing.assert_array_equal(changed(changed(clip, kind), kind), clip)


def test_mirrors(clip):
    np.testing.assert_array_equal(changed(clip, "mirror")[3, 7, 0], clip[3, 7, -1])
    np.testing.assert_array_equal(changed(clip, "rotate180")[3, 7, 0], clip[3, -8, -1])
    np.testing.assert_array_equal(changed(clip, "channel_swap")[..., 0], clip[..., 2])
    np.testing.assert_array_equal(changed(clip, "channel_swap")[..., 1], clip[..., 1])
    np.testing.assert_array_equal(changed(clip, "invert"), ~clip)


def test_grayscale_is_itu_601_luma(clip):
    got = changed(clip, "grayscale")
    assert np.ptp(got, axis=-1).max() == 0
    luma = clip @ np.array([0.299, 0.587, 0.114])
    assert np.abs(got[..., 0] - luma).max() < 1
    each = [np.asarray(Image.fromarray(frame).convert("L")) for frame in clip]
    np.testing.assert_array_equal(got[..., 0], each)


def test_saturation_and_blur_are_those_of_pillow(clip):
    images = [Image.fromarray(frame) for frame in clip]
    np.testing.assert_array_equal(
        changed(clip, "saturation"), [ImageEnhance.Color(image).enhance(2.0) for image in images]
    )
    np.testing.assert_array_equal(
        changed(clip, "blur"), [image.filter(ImageFilter.GaussianBlur(2)) for image in images]
    )
    assert np.ptp(changed(clip, "saturation"), axis=-1).mean() > 1.5 * np.ptp(clip, axis=-1).mean()
    fine = lambda pixels: np.abs(np.diff(pixels.astype(int), axis=2)).mean()  # noqa: E731
    assert fine(changed(clip, "blur")) < 0.6 * fine(clip)


def test_noise_is_gaussian_with_a_strength_of_its_own_in_every_frame():
    grey = np.full((40, 60, 80, 3), 128, np.uint8)
    noise = changed(grey, "noise").astype(float) - 128
    low, high = anomalies.NOISE_SIGMA
    # The quartiles are not clipped, and 0.6745 sigma from the middle.
    spread = np.percentile(np.abs(noise), 50, axis=(1, 2, 3)) / 0.6745
    assert low * 0.95 < spread.min() < low + 8
    assert high - 8 < spread.max() < high * 1.05
    assert np.abs(noise.mean(axis=(1, 2, 3))).max() < 2
    assert abs(np.corrcoef(noise[0].ravel(), noise[1].ravel())[0, 1]) < 0.05


def test_noise_is_clipped_not_wrapped():
    dark = changed(np.zeros((2, 30, 30, 3), np.uint8), "noise")
    assert 0.45 < np.mean(dark == 0) < 0.55
    bright = changed(np.full((2, 30, 30, 3), 255, np.uint8), "noise")
    assert np.mean(bright > 60) > 0.95


def test_zoom_out_shrinks_into_a_black_frame():
    white = np.full((12, 60, 120, 3), 255, np.uint8)
    for frame in changed(white, "zoom_out"):
        picture = frame[..., 0] > 0
        rows, columns = np.flatnonzero(picture.any(1)), np.flatnonzero(picture.any(0))
        assert picture[np.ix_(rows, columns)].all()
        tall, wide = len(rows), len(columns)
        assert int(60 / 1.4) <= tall <= int(60 / 1.2)
        assert int(120 / 1.4) <= wide <= int(120 / 1.2)
        assert abs(rows[0] - (59 - rows[-1])) <= 1  # centred
        assert abs(columns[0] - (119 - columns[-1])) <= 1


def test_zoom_in_enlarges_the_middle():
    """A ramp from left to right gets flatter by the zoom, and its middle stays."""
    ramp = np.broadcast_to(np.arange(240, dtype=np.uint8)[None, None, :, None], (12, 40, 240, 3))
    slopes = []
    for frame in changed(ramp, "zoom_in"):
        row = frame[20, :, 0].astype(float)
        slopes.append(np.polyfit(np.arange(20, 220), row[20:220], 1)[0])
        assert abs(row[119:121].mean() - 119.5) < 1
    zooms = 1 / np.array(slopes)
    low, high = anomalies.ZOOM_IN
    assert low - 0.01 < zooms.min() < zooms.max() < high + 0.01
    assert np.ptp(zooms) > 0.05  # drawn for each frame


def order(kind, length, seed=0):
    """Which frame stands where, afterwards."""
    numbered = np.broadcast_to(
        np.arange(length, dtype=np.uint8)[:, None, None, None], (length, 2, 2, 3)
    )
    return changed(numbered, kind, seed)[:, 0, 0, 0].tolist()


@pytest.mark.parametrize("length", [2, 3, 9, 16])
def test_shuffle_is_a_permutation_that_moves_something(length):
    for seed in range(20):
        got = order("shuffle", length, seed)
        assert sorted(got) == list(range(length))
        assert got != list(range(length))


@pytest.mark.parametrize("length", [2, 3, 5, 8, 16])
def test_stutter_holds_frames_in_order(length):
    holds = set()
    for seed in range(40):
        got = order("stutter", length, seed)
        assert got == sorted(got)
        keys = sorted(set(got))
        assert len(keys) < length
        holds.add(len(keys))
        assert keys == np.linspace(0, length - 1, len(keys)).astype(int).tolist()
        counts = [got.count(key) for key in keys]
        assert counts == sorted(counts, reverse=True)  # the earlier ones one more, if need be
        assert max(counts) - min(counts) <= 1
    assert holds == {min(hold, length - 1) for hold in (2, 3, 4, 5)}


@pytest.mark.parametrize("kind", ANOMALY_KINDS)
def test_a_single_frame(clip, kind):
    assert changed(clip[:1], kind).shape == clip[:1].shape


def test_unknown_kind(clip):
    with pytest.raises(AssertionError, match="sepia"):
        changed(clip, "sepia")
