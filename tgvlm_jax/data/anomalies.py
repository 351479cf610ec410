"""The things that can be wrong with a stretch of frames (VideoSSR 3.1.1, B.1).

Every kind maps a clip to a clip of the same shape. Pixel kinds draw their strength per frame, as
the released generator does. They act on decoded pixels in memory and nothing is compressed again,
so a clip carries no trace of having been written twice.
"""

import numpy as np
from jaxtyping import Int64, UInt8
from PIL import Image, ImageEnhance, ImageFilter

from tgvlm_jax.schema import ANOMALY_KINDS

Clip = UInt8[np.ndarray, "f y x 3"]
Frame = UInt8[np.ndarray, "y x 3"]

NOISE_SIGMA = (35.0, 70.0)
ZOOM_IN = (1.3, 1.5)
ZOOM_OUT = (1.2, 1.4)
BLUR_RADIUS = 2.0  # pixels of the stored frame
SATURATION = 2.0
STUTTER_HOLDS = (2, 5)


def perturb(clip: Clip, kind: str, *, rng: np.random.Generator) -> Clip:
    """Applies one of `ANOMALY_KINDS` to all frames of a clip.

    The result may be a view of `clip`. A clip of one frame cannot be shuffled and does not stutter.
    """
    assert kind in ANOMALY_KINDS, kind
    match kind:
        case "invert":
            return 255 - clip
        case "channel_swap":
            return clip[..., ::-1]
        case "rotate180":
            return clip[:, ::-1, ::-1]
        case "mirror":
            return clip[:, :, ::-1]
        case "shuffle":
            return clip[_shuffled(len(clip), rng)]
        case "stutter":
            return clip[_stutter(len(clip), rng)]
        case "grayscale" | "saturation":
            # These see single pixels only, so all frames pass as one tall image.
            return _recolour(clip.reshape(-1, *clip.shape[2:]), kind).reshape(clip.shape)
        case "noise":
            return np.stack([_noise(frame, rng) for frame in clip])
        case _:
            return np.stack([_filter(frame, kind, rng) for frame in clip])


def _recolour(pixels: Frame, kind: str) -> Frame:
    image = Image.fromarray(pixels)
    if kind == "grayscale":
        image = image.convert("L").convert("RGB")
    else:
        image = ImageEnhance.Color(image).enhance(SATURATION)
    return np.asarray(image)


def _noise(frame: Frame, rng: np.random.Generator) -> Frame:
    noise = rng.standard_normal(frame.shape, dtype=np.float32)
    noise *= np.float32(rng.uniform(*NOISE_SIGMA))
    noise += frame
    return np.clip(noise, 0, 255, out=noise).astype(np.uint8)


def _filter(frame: Frame, kind: str, rng: np.random.Generator) -> Frame:
    height, width, _ = frame.shape
    image = Image.fromarray(frame)
    match kind:
        case "blur":
            image = image.filter(ImageFilter.GaussianBlur(BLUR_RADIUS))
        case "zoom_in":
            zoom = rng.uniform(*ZOOM_IN)
            dx, dy = width * (1 - 1 / zoom) / 2, height * (1 - 1 / zoom) / 2
            box = (dx, dy, width - dx, height - dy)
            image = image.resize((width, height), Image.Resampling.LANCZOS, box=box)
        case "zoom_out":
            return shrink(frame, rng.uniform(*ZOOM_OUT))
    return np.asarray(image)


def shrink(frame: Frame, factor: float) -> Frame:
    """The frame smaller by a factor, in the middle of a black one of its size."""
    height, width, _ = frame.shape
    small = (int(width / factor), int(height / factor))
    canvas = Image.new("RGB", (width, height))
    corner = ((width - small[0]) // 2, (height - small[1]) // 2)
    canvas.paste(Image.fromarray(frame).resize(small, Image.Resampling.LANCZOS), corner)
    return np.asarray(canvas)


def _shuffled(length: int, rng: np.random.Generator) -> Int64[np.ndarray, "f"]:
    """A permutation that moves something: the released one may not, and then asks for nothing."""
    order = rng.permutation(length)
    while length > 1 and np.all(np.diff(order) == 1):
        order = rng.permutation(length)
    return order


def _stutter(length: int, rng: np.random.Generator) -> Int64[np.ndarray, "f"]:
    """Indices that hold a few key frames, the earlier ones for one frame more where need be.

    There are fewer key frames than frames, so that something is held.
    """
    holds = int(rng.integers(STUTTER_HOLDS[0], STUTTER_HOLDS[1] + 1))
    holds = max(1, min(holds, length - 1))
    keys = np.linspace(0, length - 1, holds).astype(np.int64)
    return np.repeat(keys, length // holds + (np.arange(holds) < length % holds))
