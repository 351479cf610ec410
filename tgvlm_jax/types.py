"""The data types that cross module borders, and the one table of shape letters.

Shape letters, the same in every annotation of the library:

    b batch    g group sample   t text position   f frame    p patch    e evidence slot
    v view     d width          h heads           k head size           n vocabulary
    y x        pixel rows and columns             c colour channel (RGB)

Time is always float seconds on the container's own clock, counted from the start of the
container as a player shows it; frame indices are integers into a sampled frame list. The only
conversions between the two are in `tgvlm_jax.grounding.spans`.
"""

import dataclasses

import numpy as np
from jaxtyping import Float64, UInt8


class InputError(ValueError):
    """Something the user gave us is wrong; the message is one line that says what to do."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class VideoInfo:
    """What a container says about its video stream, before any frame is decoded.

    Attributes:
        duration: seconds, from the start of the container to the end of its last frame.
        fps: mean frames per second of the stream (real, not nominal, where the two differ).
        width, height: pixels as displayed (rotation and pixel aspect applied).
        codec: FFmpeg's name of the codec.
    """

    duration: float
    fps: float
    width: int
    height: int
    codec: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class VideoFrames:
    """Frames sampled from one video, each with the second at which it is really shown."""

    pixels: UInt8[np.ndarray, "f y x 3"]
    seconds: Float64[np.ndarray, "f"]
    info: VideoInfo
