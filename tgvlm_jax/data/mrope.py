"""M-RoPE: a time, a row and a column for every token of a Qwen-VL prompt.

Text moves on all three axes alike; the tokens of an image or video are spread over its grid. What
follows a video depends on the rule: "release" is that of the code the Qwen2.5-VL weights were
published with (transformers 4.49), "hf5" that of transformers 5.23, which forgets how long the
video was.
"""

import dataclasses
from collections.abc import Sequence
from typing import Literal

import numpy as np
from jaxtyping import Bool, Int32

from tgvlm_jax.types import InputError

Style = Literal["release", "hf5"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class VisionItem:
    """An image or video where its placeholders stand in the prompt.

    Attributes:
        grid: temporal patches, rows and columns of patches (before the merge).
        seconds: time from one temporal patch to the next, 0 for an image. Published training code
            often leaves it at 1.0, whatever the sampling rate.
    """

    grid: tuple[int, int, int]
    seconds: float = 0.0


def image_item(rows: int, columns: int) -> VisionItem:
    """An image of so many patches."""
    return VisionItem(grid=(1, rows, columns))


def video_item(grid: tuple[int, int, int], *, seconds: float = 1.0) -> VisionItem:
    """A video of Qwen2.5-VL, one run of placeholders; `seconds` for each temporal patch."""
    return VisionItem(grid=grid, seconds=seconds)


def video_frames(grid: tuple[int, int, int]) -> list[VisionItem]:
    """A video of Qwen3-VL: every temporal patch stands alone, after its time in words."""
    return [image_item(grid[1], grid[2]) for _ in range(grid[0])]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Positions:
    """Positions of one prompt.

    Attributes:
        ids: time, row and column of every slot.
        delta: what is added to the number of slots so far (under "release" with the padding, under
            "hf5" without) to give the position of the next token, on all axes.
    """

    ids: Int32[np.ndarray, "3 t"]
    delta: int


def positions(
    visual: Bool[np.ndarray, "t"],
    items: Sequence[VisionItem],
    *,
    filled: Bool[np.ndarray, "t"] | None = None,
    merge: int = 2,
    tokens_per_second: float = 2.0,
    style: Style = "release",
) -> Positions:
    """Positions of a prompt.

    Args:
        visual: slots that hold the placeholder of an image or video.
        items: images and videos in the order of the prompt, each of one run of placeholders.
        filled: slots that are not padding, on either side; all by default. Padding is at 1 under
            "release" and at 0 under "hf5".
        merge: patches a side of one token.
        tokens_per_second: temporal positions a second of video takes.
        style: the rule.

    Raises:
        InputError: placeholders that are not those of the items.
    """
    filled = np.ones(len(visual), bool) if filled is None else filled
    slots = np.flatnonzero(filled)
    seen = visual[slots]
    # Where runs of text or placeholders begin; an item may end within a run of placeholders.
    edges = np.flatnonzero(np.diff(seen)) + 1
    stops = np.append(edges, len(seen))
    ids = np.full((3, len(visual)), int(style == "release"), np.int32)
    place, at, todo = 0, 0, list(items)[::-1]
    while place < len(seen):
        stop = int(stops[np.searchsorted(stops, place, side="right")])
        if seen[place]:
            block, step = _block(_next(todo, place), merge, tokens_per_second, style)
            if place + block.shape[1] > stop:
                raise InputError(
                    f"{stop - place} placeholders in a row from slot {slots[place]}, where the "
                    f"next image or video has {block.shape[1]} tokens"
                )
        else:
            block, step = np.tile(np.arange(stop - place), (3, 1)), stop - place
        ids[:, slots[place : place + block.shape[1]]] = at + block
        place, at = place + block.shape[1], at + step
    if todo:
        raise InputError(f"{len(todo)} images or videos have no placeholders in the prompt")
    largest = int(ids[:, slots].max()) if len(slots) else -1
    length = len(visual) if style == "release" else len(slots)
    return Positions(ids=ids, delta=largest + 1 - length)


def _next(todo: list[VisionItem], place: int) -> VisionItem:
    if not todo:
        raise InputError(f"placeholders at token {place} belong to no image or video")
    return todo.pop()


def _block(
    item: VisionItem, merge: int, tokens_per_second: float, style: Style
) -> tuple[np.ndarray, int]:
    """Positions of an item from 0, and how far the text behind it moves on."""
    times, rows, columns = item.grid[0], item.grid[1] // merge, item.grid[2] // merge
    seconds, rate = np.float32(item.seconds), np.float32(tokens_per_second)
    index = np.arange(times, dtype=np.float32)
    # Float32 and this order of products, as published: the fraction is cut off, so rounding shows.
    when = index * seconds * rate if style == "release" else index * (rate * seconds)
    axes = (when.astype(np.int32), np.arange(rows), np.arange(columns))
    block = np.stack(np.meshgrid(*axes, indexing="ij")).reshape(3, -1)
    step = int(block.max()) + 1 if style == "release" else max(rows, columns)
    return block, step
