"""The pool of candidate frames that Video-MTR retrieves from (1.2 and 1.4)."""

import dataclasses

import numpy as np
from jaxtyping import Float, Int64

from tgvlm_jax.data.qwen_patches import PatchRule, frame_count, frame_indices

TRAINING_FACTOR, EVALUATION_FACTOR = 14, 28  # pixels a side of a token, of the released loader


@dataclasses.dataclass(frozen=True, kw_only=True)
class FramePool:
    """Which frames of a video are candidates.

    Attributes:
        frames: their numbers in the video. fps: candidates a second.
    """

    frames: Int64[np.ndarray, "f"]
    fps: float


def frame_pool(count: int, fps: float, *, most: int = 64, rate: float = 1.0) -> FramePool:
    """An even number of frames at `rate` a second, from 4 to `most`, spread over the video.

    The paper says 128 at most in one place; its figures, and the released code, have 64.

    Args:
        count: frames of the video. fps: its frames a second.

    Raises:
        InputError: a video of fewer than two frames.
    """
    size = frame_count(count, fps, rate=rate, most=most)
    return FramePool(frames=frame_indices(count, size), fps=size / (count / fps))


def relevant(
    windows: Float[np.ndarray, "windows 2"], seconds: Float[np.ndarray, "f"]
) -> frozenset[int]:
    """Which of a pool's frames lie in a window, ends included; all in seconds of the video."""
    inside = (seconds >= windows[:, :1]) & (seconds <= windows[:, 1:])
    return frozenset(np.flatnonzero(inside.any(axis=0)).tolist())


def size_rule(factor: int) -> PatchRule:
    """The size of a candidate frame, with `qwen_patches.video_size`.

    The released loader replaces the 28 pixels of a token by `factor` in every limit of
    qwen-vl-utils, 14 in training and 28 in evaluation.
    """
    pixels = factor**2
    return PatchRule(
        patch=factor // 2,
        min_pixels=4 * pixels,
        max_pixels=16384 * pixels,
        video_min_pixels=128 * pixels,
        video_max_pixels=128 * pixels,
        video_total_pixels=102_400 * pixels,
    )
