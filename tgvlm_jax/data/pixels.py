"""Frames as the published vision towers want them: short side resized, centre cut out, normalised.

What torch computes with `interpolate(mode="bilinear", antialias=True)`, in float32 on the host.
"""

import dataclasses
import functools

import numpy as np
from jaxtyping import Float, Num

from tgvlm_jax.types import InputError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Normalisation:
    """Mean and standard deviation of a channel, of pixels from 0 to 1."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]


CLIP = Normalisation(
    mean=(0.48145466, 0.4578275, 0.40821073), std=(0.26862954, 0.26130258, 0.27577711)
)
"""EVA-CLIP and so BLIP-2, E.T.Chat, D2VLM (D2VLM 1.1)."""
KINETICS = Normalisation(mean=(0.45, 0.45, 0.45), std=(0.225, 0.225, 0.225))
"""TimeSformer (ProfVLM 2.1)."""


def clip_pixels(
    frames: Num[np.ndarray, "f y x 3"], side: int, *, normalisation: Normalisation
) -> Float[np.ndarray, "f side side 3"]:
    """Normalised square frames (D2VLM 1.1).

    Args:
        frames: RGB from 0 to 255. side: of the square in pixels.
        normalisation: of the tower.

    Raises:
        InputError: frames without pixels.
    """
    height, width = frames.shape[1:3]
    if not height or not width:
        raise InputError(f"frames of {width} x {height} pixels; give frames that show something")
    short = min(height, width)
    pixels = frames.astype(np.float32) / np.float32(255)
    pixels = _resize(pixels, side * height // short, side * width // short)
    top, left = (pixels.shape[1] - side) // 2, (pixels.shape[2] - side) // 2
    pixels = pixels[:, top : top + side, left : left + side]
    mean, std = (np.asarray(x, np.float32) for x in (normalisation.mean, normalisation.std))
    return (pixels - mean) / std


def _resize(
    pixels: Float[np.ndarray, "f y x 3"], height: int, width: int
) -> Float[np.ndarray, "f _ _ 3"]:
    """Bilinear with antialiasing; identical sizes are left as they are."""
    if pixels.shape[2] != width:
        weights = _triangle(pixels.shape[2], width)
        pixels = np.einsum("fyxc,wx->fywc", pixels, weights, optimize=True)
    if pixels.shape[1] != height:
        weights = _triangle(pixels.shape[1], height)
        pixels = np.einsum("fyxc,hy->fhxc", pixels, weights, optimize=True)
    return pixels


@functools.lru_cache(maxsize=32)
def _triangle(old: int, new: int) -> Float[np.ndarray, "new old"]:
    """Weights of old samples in new ones: a triangle as wide as a new sample, or an old one.

    In float32 and summed one by one, so that the pixels come out bit-equal to torch's.
    """
    scale, half = np.float32(old) / np.float32(new), np.float32(0.5)
    support = max(scale, np.float32(1))
    places = np.arange(old, dtype=np.float32)
    centres = scale * (np.arange(new, dtype=np.float32)[:, None] + half)
    weights = np.float32(1) - np.abs((places - centres + half) * (np.float32(1) / support))
    first, behind = np.trunc(centres - support + half), np.trunc(centres + support + half)
    weights = np.where((places >= first) & (places < behind), np.maximum(weights, 0), 0)
    return weights / np.cumsum(weights, axis=1)[:, -1:]
