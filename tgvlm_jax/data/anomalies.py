"""The things that can be wrong with a stretch of frames (VideoSSR 3.1.1, B.1).

Every kind maps a clip to a clip of the same shape. Pixel kinds draw their strength per frame, as
the released generator does. They act on decoded pixels in memory and nothing is compressed again,
so a clip carries no trace of having been written twice.
"""

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageEnhance, ImageFilter

from tgvlm_jax.schema import ANOMALY_KINDS

Clip = UInt8[np.ndarray, "f y x 3"]

NOISE_SIGMA = (35.0, 70.0)
ZOOM_IN = (1.3, 1.5)
ZOOM_OUT = (1.2, 1.4)
BLUR_RADIUS = 2.0  # pixels of the stored frame
SATURATION = 2.0
STUTTER_HOLDS = (2, 5)


def perturb(clip: Clip, kind: str, *, rng: np.random.Generator) -> Clip:
    """Applies one of `ANOMALY_KINDS` to all frames of a clip."""
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
            return clip[rng.permutation(len(clip))]
        case "stutter":
            return clip[_stutter(len(clip), rng)]
        case _:
            return np.stack([_perturb_frame(frame, kind, rng) for frame in clip])


def _perturb_frame(
    frame: UInt8[np.ndarray, "y x 3"], kind: str, rng: np.random.Generator
) -> UInt8[np.ndarray, "y x 3"]:
    height, width, _ = frame.shape
    image = Image.fromarray(np.ascontiguousarray(frame))
    match kind:
        case "grayscale":
            image = image.convert("L").convert("RGB")
        case "saturation":
            image = ImageEnhance.Color(image).enhance(SATURATION)
        case "blur":
            image = image.filter(ImageFilter.GaussianBlur(BLUR_RADIUS))
        case "zoom_in":
            zoom = rng.uniform(*ZOOM_IN)
            dx, dy = width * (1 - 1 / zoom) / 2, height * (1 - 1 / zoom) / 2
            box = (dx, dy, width - dx, height - dy)
            image = image.resize((width, height), Image.Resampling.LANCZOS, box=box)
        case "zoom_out":
            zoom = rng.uniform(*ZOOM_OUT)
            small = (int(width / zoom), int(height / zoom))
            canvas = Image.new("RGB", (width, height))
            corner = ((width - small[0]) // 2, (height - small[1]) // 2)
            canvas.paste(image.resize(small, Image.Resampling.LANCZOS), corner)
            image = canvas
        case "noise":
            noise = rng.standard_normal(frame.shape, dtype=np.float32) * rng.uniform(*NOISE_SIGMA)
            return np.clip(frame + noise, 0, 255).astype(np.uint8)
    return np.asarray(image)


def _stutter(length: int, rng: np.random.Generator) -> np.ndarray:
    """Indices that hold a few key frames, each for about the same time."""
    holds = int(rng.integers(STUTTER_HOLDS[0], STUTTER_HOLDS[1] + 1))
    keys = np.linspace(0, length - 1, holds).astype(int)
    return keys[np.minimum(np.arange(length) * holds // length, holds - 1)]
