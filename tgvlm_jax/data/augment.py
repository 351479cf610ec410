"""The size that clips are given out in, and what training changes about a clip as a whole.

Every step takes all frames of a clip as one image: a few calls a clip, not a few a frame.
"""

import dataclasses
import math

import numpy as np
from jaxtyping import Float64, UInt8
from PIL import Image

from tgvlm_jax.schema import DataConfig

_GREY = 128.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Look:
    """One crop, flip and colour change for all frames of a clip.

    Attributes:
        box: left, top, right and bottom, as fractions of the stored frame.
        mirrored: left and right change places.
        colours: for each channel given out, the weights of the three stored ones and a constant.
    """

    box: tuple[float, float, float, float]
    mirrored: bool
    colours: Float64[np.ndarray, "3 4"]


def draw_look(config: DataConfig, rng: np.random.Generator) -> Look:
    """A random look, so that a film of ten minutes does not run out."""
    wide = rng.uniform(config.crop, 1.0)
    tall = max(config.crop, wide * rng.uniform(0.9, 1.0))
    left, top = rng.uniform(0, 1 - wide), rng.uniform(0, 1 - tall)
    mirrored = bool(rng.random() < 0.5)
    mix = np.eye(3) + 0.15 * config.jitter * rng.standard_normal((3, 3))
    shift = 20 * config.jitter * rng.standard_normal((3, 1))
    # About the middle grey: x -> mix (x - grey) + grey + shift.
    constant = _GREY * (1 - mix.sum(axis=1, keepdims=True)) + shift
    return Look(
        box=(left, top, left + wide, top + tall),
        mirrored=mirrored,
        colours=np.concatenate([mix, constant], axis=1),
    )


def fit(
    clip: UInt8[np.ndarray, "f y x 3"], size: tuple[int, int] | None, *, config: DataConfig
) -> UInt8[np.ndarray, "f Y X 3"]:
    """Gives every frame the (height, width) of a tower, the way that `data.fit` says.

    A tower that takes any size (None) gets the frames as they are.

    "centre" cuts the largest part of that shape out of the middle first, which is what D2VLM's
    resizing of the short side and cutting come to (D2VLM 1.1).
    """
    rows, columns = clip.shape[1:3]
    if size is None or config.fit == "stretch":
        return resize(clip, size)
    height, width = size
    tall, wide = min(rows, columns * height / width), min(columns, rows * width / height)
    top, left = (1 - tall / rows) / 2, (1 - wide / columns) / 2
    return resize(clip, size, box=(left, top, 1 - left, 1 - top))


def resize(
    clip: UInt8[np.ndarray, "f y x 3"],
    size: tuple[int, int] | None,
    *,
    look: Look | None = None,
    box: tuple[float, float, float, float] = (0.0, 0.0, 1.0, 1.0),
) -> UInt8[np.ndarray, "f Y X 3"]:
    """Scales every frame to (height, width), antialiased; of each a look's part, or a `box`.

    None keeps the size that the frames have.
    """
    count, rows, columns, _ = clip.shape
    height, width = size or (rows, columns)
    left, top, right, bottom = look.box if look else box
    left, top, right, bottom = left * columns, top * rows, right * columns, bottom * rows

    # Across with the frames one below the other, then down with the frames side by side. Rows
    # that the filter does not reach are left out.
    reach = max(1.0, (bottom - top) / height)
    low, high = max(0, math.floor(top - reach)), min(rows, math.ceil(bottom + reach))
    rows = high - low
    tall = Image.fromarray(clip[:, low:high].reshape(count * rows, columns, 3))
    box = (left, 0, right, count * rows)
    tall = tall.resize((width, count * rows), Image.Resampling.BILINEAR, box=box)
    beside = np.asarray(tall).reshape(count, rows, width, 3).swapaxes(0, 1)
    wide = Image.fromarray(beside.reshape(rows, count * width, 3))
    box = (0, top - low, count * width, bottom - low)
    wide = wide.resize((count * width, height), Image.Resampling.BILINEAR, box=box)
    if look:
        wide = wide.convert("RGB", tuple(look.colours.ravel().tolist()))
    pixels = np.asarray(wide).reshape(height, count, width, 3).swapaxes(0, 1)
    return np.ascontiguousarray(pixels[:, :, ::-1] if look and look.mirrored else pixels)
