"""Images and videos as the Qwen-VL models take them: sizes, frame budgets, patches.

The rules are those of the published processors and of qwen-vl-utils. Patches stay uint8, a fourth
of the bytes; the tower normalises them on the device.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
from jaxtyping import Float64, Int64, Num, UInt8
from PIL import Image

from tgvlm_jax.types import InputError

_MAX_RATIO = 200
Grid = tuple[int, int, int]


@dataclasses.dataclass(frozen=True, kw_only=True)
class PatchRule:
    """How a model cuts up what it sees.

    Attributes:
        patch: side of a patch in pixels. temporal: frames it spans.
        merge: patches a side of one token.
        min_pixels, max_pixels: of an image.
        video_min_pixels, video_max_pixels: of each frame under the "frame" budget, of all frames
            together under "clip".
        video_total_pixels: under the "frame" budget, what `temporal` frames may have at most when
            all of a video's share it evenly.
        budget: "frame" is qwen-vl-utils' rule for every model, "clip" Qwen3-VL's own processor.
        window: side of a window of the tower in pixels, 0 without windows.
        table_side: side of the tower's table of learned positions, 0 without one.
    """

    patch: int
    temporal: int = 2
    merge: int = 2
    min_pixels: int
    max_pixels: int
    video_min_pixels: int
    video_max_pixels: int
    video_total_pixels: float = math.inf
    budget: Literal["frame", "clip"] = "frame"
    window: int = 0
    table_side: int = 0

    @property
    def factor(self) -> int:
        """Side of one token in pixels; sizes are multiples of it."""
        return self.patch * self.merge


QWEN2_5_VL = PatchRule(
    patch=14,
    min_pixels=4 * 28**2,
    max_pixels=16384 * 28**2,
    video_min_pixels=128 * 28**2,
    video_max_pixels=768 * 28**2,
    video_total_pixels=0.9 * 128_000 * 28**2,
    window=112,
)
QWEN3_VL = PatchRule(
    patch=16,
    min_pixels=64 * 32**2,
    max_pixels=16384 * 32**2,
    video_min_pixels=4 * 32**2,
    video_max_pixels=24576 * 32**2,
    budget="clip",
    table_side=48,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Patched:
    """An image or video in patches.

    Attributes:
        patches: one a row, flat as (channel, frame, y, x); those of one token stand together, its
            rows before its columns, tokens by (frame, row, column).
        grid: temporal patches, rows and columns of patches.
    """

    patches: Num[np.ndarray, "p c"]
    grid: Grid


def smart_resize(
    height: int,
    width: int,
    *,
    factor: int,
    min_pixels: float,
    max_pixels: float,
    clamp: bool = False,
) -> tuple[int, int]:
    """Height and width as multiples of `factor` that keep the shape and obey the pixel limits.

    Halves round to even. `clamp` first raises a side that rounds to nothing to one `factor`, as
    qwen-vl-utils does and the processors do not.

    Raises:
        InputError: one side more than 200 times the other.
    """
    _check_ratio(height, width)
    sides = [round(side / factor) * factor for side in (height, width)]
    sides = [max(factor, side) for side in sides] if clamp else sides
    return _limited((height, width), sides, factor, limits=(min_pixels, max_pixels))


def clip_resize(
    frames: int,
    height: int,
    width: int,
    *,
    factor: int,
    temporal: int,
    min_pixels: float,
    max_pixels: float,
) -> tuple[int, int]:
    """As `smart_resize`, with limits on the pixels of all frames (Qwen3-VL's video processor).

    Raises:
        InputError: fewer frames than a patch spans, or one side over 200 times the other.
    """
    if frames < temporal:
        raise InputError(f"{frames} frames are fewer than the {temporal} that a patch spans")
    if height < factor or width < factor:
        scale = max(factor / height, factor / width)
        height, width = int(height * scale), int(width * scale)
    _check_ratio(height, width)
    sides = [round(side / factor) * factor for side in (height, width)]
    counted = round(frames / temporal) * temporal
    limits = (min_pixels, max_pixels)
    return _limited((height, width), sides, factor, limits=limits, frames=frames, counted=counted)


def _check_ratio(height: int, width: int) -> None:
    if max(height, width) / min(height, width) > _MAX_RATIO:
        raise InputError(f"{width} x {height} pixels: a side is over {_MAX_RATIO} times the other")


def _limited(
    wanted: tuple[int, int],
    sides: Sequence[int],
    factor: int,
    *,
    limits: tuple[float, float],
    frames: int = 1,
    counted: int = 1,
) -> tuple[int, int]:
    """`sides`, or `wanted` scaled to the pixel limits, rounded down or up into them."""
    least, most = limits
    pixels, before = counted * sides[0] * sides[1], frames * wanted[0] * wanted[1]
    if pixels > most:
        scale = math.sqrt(before / most)
        sides = [max(factor, math.floor(side / scale / factor) * factor) for side in wanted]
    elif pixels < least:
        scale = math.sqrt(least / before)
        sides = [math.ceil(side * scale / factor) * factor for side in wanted]
    return sides[0], sides[1]


def video_size(frames: int, height: int, width: int, *, rule: PatchRule) -> tuple[int, int]:
    """Height and width of every frame of a video of so many frames.

    Under the "frame" budget a long video gets smaller frames, though never under 1.05 times the
    least.

    Raises:
        InputError: as `smart_resize` and `clip_resize`.
    """
    least, most = rule.video_min_pixels, rule.video_max_pixels
    if rule.budget == "clip":
        return clip_resize(
            frames,
            height,
            width,
            factor=rule.factor,
            temporal=rule.temporal,
            min_pixels=least,
            max_pixels=most,
        )
    share = rule.video_total_pixels / frames * rule.temporal
    most = max(min(most, share), int(least * 1.05))
    return smart_resize(
        height, width, factor=rule.factor, min_pixels=least, max_pixels=most, clamp=True
    )


def frame_count(
    frames: int,
    fps: float,
    *,
    rate: float = 2.0,
    least: int = 4,
    most: int = 768,
    multiple: int = 2,
) -> int:
    """How many of a video's frames are sampled at `rate` a second; a multiple of `multiple`.

    Raises:
        InputError: a video of fewer frames than `multiple`.
    """
    least = math.ceil(least / multiple) * multiple
    most = math.floor(min(most, frames) / multiple) * multiple
    count = min(max(frames / fps * rate, least), most, frames)
    count = math.floor(count / multiple) * multiple
    if count < multiple:
        raise InputError(f"{frames} frames are fewer than the {multiple} that a patch spans")
    return count


def frame_indices(frames: int, count: int) -> Int64[np.ndarray, "f"]:
    """`count` frames spread evenly from the first to the last; halves round to even.

    In float32 and from both ends, as torch spreads them, so that ties fall alike.
    """
    step = np.float32(frames - 1) / np.float32(max(count - 1, 1))
    index = np.arange(count, dtype=np.float32)
    up, down = index * step, np.float32(frames - 1) - (count - 1 - index) * step
    places = np.where(np.arange(count) < count // 2, up, down) if count > 1 else up
    return places.round().astype(np.int64)


def frame_stamps(seconds: Float64[np.ndarray, "f"], *, temporal: int = 2) -> list[str]:
    """What Qwen3-VL reads before each temporal patch: the middle of its frames in seconds."""
    padded = np.append(seconds, np.repeat(seconds[-1:], -len(seconds) % temporal))
    first, last = padded[::temporal], padded[temporal - 1 :: temporal]
    return [f"<{second:.1f} seconds>" for second in ((first + last) / 2).tolist()]


def image_patches(pixels: UInt8[np.ndarray, "y x 3"], *, rule: PatchRule) -> Patched:
    """Resizes an image and cuts it; it stands for all frames of its patches.

    Raises:
        InputError: a shape that no rule allows.
    """
    height, width = smart_resize(
        *pixels.shape[:2],
        factor=rule.factor,
        min_pixels=rule.min_pixels,
        max_pixels=rule.max_pixels,
    )
    return patchify(resize(pixels[None], height, width), rule=rule)


def video_patches(frames: UInt8[np.ndarray, "f y x 3"], *, rule: PatchRule) -> Patched:
    """Resizes the sampled frames of a video and cuts them.

    Raises:
        InputError: a shape that no rule allows, or no frames.
    """
    return patchify(resize(frames, *_scaled(frames.shape, rule)), rule=rule)


def video_grid(shape: Sequence[int], *, rule: PatchRule) -> Patched:
    """As `video_patches` of frames of that shape, without any patches.

    Raises:
        InputError: as `video_patches`.
    """
    height, width = _scaled(shape, rule)
    grid = (-(-shape[0] // rule.temporal), height // rule.patch, width // rule.patch)
    return Patched(patches=np.zeros((0, 3 * rule.temporal * rule.patch**2), np.uint8), grid=grid)


def _scaled(shape: Sequence[int], rule: PatchRule) -> tuple[int, int]:
    """Height and width that frames of a video are cut at."""
    if not shape[0]:
        raise InputError("a video without frames has no patches")
    return video_size(*shape[:3], rule=rule)


def resize(
    frames: UInt8[np.ndarray, "f _y _x 3"], height: int, width: int
) -> UInt8[np.ndarray, "f y x 3"]:
    """Bicubic, smoothed where it shrinks."""
    if frames.shape[1:3] == (height, width):
        return frames
    size, kind = (width, height), Image.Resampling.BICUBIC
    return np.stack([np.asarray(Image.fromarray(frame).resize(size, kind)) for frame in frames])


def patchify(frames: Num[np.ndarray, "f y x 3"], *, rule: PatchRule) -> Patched:
    """Cuts frames whose sides are multiples of `rule.factor`; the last one is repeated to fill."""
    count, height, width, _ = frames.shape
    fill = -count % rule.temporal
    frames = np.concatenate([frames, np.repeat(frames[-1:], fill, axis=0)]) if fill else frames
    grid = ((count + fill) // rule.temporal, height // rule.patch, width // rule.patch)
    rows, columns = grid[1] // rule.merge, grid[2] // rule.merge
    cut = (grid[0], rule.temporal, rows, rule.merge, rule.patch, columns, rule.merge, rule.patch, 3)
    # (time, token row, token column, row, column) before (channel, frame, y, x)
    parts = frames.reshape(cut).transpose(0, 2, 5, 3, 6, 8, 1, 4, 7)
    return Patched(patches=parts.reshape(math.prod(grid), -1), grid=grid)
