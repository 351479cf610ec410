import numpy as np
import pytest
from PIL import Image

from tests.data.bad_videos import BIKES
from tgvlm_jax.data.augment import Look, draw_look, fit, resize
from tgvlm_jax.data.video import decode
from tgvlm_jax.schema import DataConfig

AS_IT_IS = np.eye(3, 4)
WHOLE = (0.0, 0.0, 1.0, 1.0)
MIRROR = Look(box=WHOLE, mirrored=True, colours=AS_IT_IS)


@pytest.fixture(scope="module")
def clip():
    return decode(BIKES, fps=1.0, height=72, width=128).pixels[:7]


def one_by_one(clip, size, box=None):
    """What Pillow gives for each frame alone."""
    height, width = size
    bilinear = Image.Resampling.BILINEAR
    images = [Image.fromarray(frame).resize((width, height), bilinear, box=box) for frame in clip]
    return np.stack([np.asarray(image) for image in images])


@pytest.mark.parametrize("size", [(48, 64), (72, 128), (72, 64), (30, 128), (100, 200)])
def test_all_frames_at_once_are_like_one_by_one(clip, size):
    got = resize(clip, size)
    assert (got.shape, got.dtype) == ((7, *size, 3), np.uint8)
    assert got.flags.c_contiguous
    np.testing.assert_array_equal(got, one_by_one(clip, size))
    np.testing.assert_array_equal(got, resize(clip[:, :, ::-1], size, look=MIRROR))


def test_any_size_may_stay(clip):
    """For towers that take frames of all sizes; a look is a look there too."""
    np.testing.assert_array_equal(resize(clip, None), clip)
    np.testing.assert_array_equal(fit(clip, None, config=DataConfig(fit="centre")), clip)
    np.testing.assert_array_equal(resize(clip, None, look=MIRROR), clip[:, :, ::-1])


def test_boxes_are_like_one_by_one(clip):
    """Whatever the crop, and nothing of one frame gets into another."""
    rng = np.random.default_rng(0)
    for _ in range(20):
        left, top = rng.uniform(0, 0.5, 2)
        right, bottom = left + rng.uniform(0.3, 0.5), top + rng.uniform(0.3, 0.5)
        look = Look(box=(left, top, right, bottom), mirrored=False, colours=AS_IT_IS)
        size = tuple(rng.integers(10, 100, 2).tolist())
        box = (left * 128, top * 72, right * 128, bottom * 72)
        found, wanted = resize(clip, size, look=look), one_by_one(clip, size, box)
        assert np.abs(found.astype(int) - wanted).max() <= 1
        assert np.mean(found != wanted) < 1e-3


def test_colours_are_mixed_about_a_constant(clip):
    colours = np.array([[0.9, 0.1, 0.0, 5.0], [-0.2, 1.1, 0.1, -9.0], [0.0, 0.3, 0.8, 0.0]])
    look = Look(box=WHOLE, mirrored=False, colours=colours)
    plain = resize(clip, (48, 64)).astype(np.float64)
    wanted = np.clip(plain @ colours[:, :3].T + colours[:, 3], 0, 255)
    assert np.abs(resize(clip, (48, 64), look=look) - wanted).max() < 0.51


def test_looks_stay_within_the_frame_and_the_config():
    rng = np.random.default_rng(0)
    looks = [draw_look(DataConfig(crop=0.6), rng) for _ in range(500)]
    boxes = np.array([look.box for look in looks])
    assert boxes.min() >= 0
    assert boxes.max() <= 1
    sides = boxes[:, 2:] - boxes[:, :2]
    assert 0.6 - 1e-9 <= sides.min() < 0.62
    assert 0.98 < sides.max() <= 1
    assert 0.4 < np.mean([look.mirrored for look in looks]) < 0.6
    # Grey stays near grey on average, whatever the mix.
    grey = np.array([look.colours @ [128.0, 128.0, 128.0, 1.0] for look in looks])
    np.testing.assert_allclose(grey.mean(axis=0), 128, atol=4)
    np.testing.assert_allclose(grey.std(axis=0), 20, rtol=0.15)


def test_no_crop_and_no_jitter_is_no_change(clip):
    look = draw_look(DataConfig(crop=1.0, jitter=0.0), np.random.default_rng(0))
    assert look.box == WHOLE
    got = resize(clip, (48, 64), look=look)
    wanted = resize(clip, (48, 64))
    np.testing.assert_array_equal(got, wanted[:, :, ::-1] if look.mirrored else wanted)
