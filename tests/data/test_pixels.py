import numpy as np
import pytest
from PIL import Image

from tgvlm_jax.data.pixels import CLIP, KINETICS, Normalisation, clip_pixels
from tgvlm_jax.types import InputError

PLAIN = Normalisation(mean=(0.0,) * 3, std=(1.0,) * 3)


def noise(height, width):
    return np.random.default_rng(0).integers(0, 256, (2, height, width, 3), np.uint8)


@pytest.mark.parametrize(("height", "width"), [(50, 64), (61, 97), (30, 20), (24, 24), (25, 90)])
def test_as_another_antialiased_bilinear_filter(height, width):
    frames = noise(height, width)
    got = clip_pixels(frames, 24, normalisation=PLAIN)
    assert got.shape == (2, 24, 24, 3)
    assert got.dtype == np.float32
    short = min(height, width)
    size = (24 * width // short, 24 * height // short)
    left, top = ((n - 24) // 2 for n in size)
    for frame, channel in np.ndindex(2, 3):
        image = Image.fromarray(frames[frame, ..., channel].astype(np.float32))
        wanted = np.asarray(image.resize(size, Image.Resampling.BILINEAR))
        wanted = wanted[top : top + 24, left : left + 24] / 255
        np.testing.assert_allclose(got[frame, ..., channel], wanted, atol=1e-5)


def test_a_frame_of_the_right_size_is_only_normalised():
    frames = noise(24, 24)
    for kind in (CLIP, KINETICS):
        wanted = (frames / 255 - np.array(kind.mean)) / np.array(kind.std)
        np.testing.assert_allclose(clip_pixels(frames, 24, normalisation=kind), wanted, atol=1e-6)


def test_a_frame_without_pixels_is_refused():
    with pytest.raises(InputError, match="0 x 8"):
        clip_pixels(np.zeros((1, 8, 0, 3), np.uint8), 24, normalisation=CLIP)
