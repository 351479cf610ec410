"""Rows of patch slots: the one fixed shape in which images and videos of any size reach a tower.

A row has room for a number of patches and holds one or several whole frames (pairs of frames: a
temporal patch), since frames do not see each other. Beside the pixels go numbers that say where a
patch lies and with which others it is seen. Rows and slots are chosen per run, as buckets; nothing
compiles again for a sample.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float32, Int32

from tgvlm_jax.data.qwen_patches import Grid, Patched, PatchRule
from tgvlm_jax.types import InputError, PatchRows


@dataclasses.dataclass(frozen=True, kw_only=True)
class LaidOut:
    """The images and videos of one sample.

    Attributes:
        rows: what the tower takes, without the batch axis.
        tokens: for every visual token in the order of the prompt, its place among the tower's
            output tokens (rows one after another).
    """

    rows: PatchRows
    tokens: Int32[np.ndarray, "u"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Places:
    """Where the patches of one frame lie, in the order of `patchify`.

    Attributes:
        coordinates: row and column.
        windows: number of the window, row by row.
        table: row and column in the table of learned positions, whose corners are the frame's.
    """

    coordinates: Int32[np.ndarray, "p 2"]
    windows: Int32[np.ndarray, "p"]
    table: Float32[np.ndarray, "p 2"]


def token_count(grid: Grid, *, rule: PatchRule) -> int:
    """Placeholders that an image or video takes in the prompt."""
    return grid[0] * grid[1] * grid[2] // rule.merge**2


def places(grid: Grid, *, rule: PatchRule) -> Places:
    """Places of the patches of every frame of a grid."""
    rows, columns = grid[1:]
    row, column = np.meshgrid(np.arange(rows), np.arange(columns), indexing="ij")
    both = np.stack([row, column], axis=-1).astype(np.int32)
    cut = (rows // rule.merge, rule.merge, columns // rule.merge, rule.merge, 2)
    both = both.reshape(cut).swapaxes(1, 2).reshape(-1, 2)
    side = rule.window // rule.factor * rule.merge if rule.window else max(rows, columns)
    window = both // side
    last = np.maximum(np.array([rows, columns], np.float32) - 1, 1)
    return Places(
        coordinates=both,
        windows=window[:, 0] * -(-columns // side) + window[:, 1],
        table=both.astype(np.float32) * np.float32(max(rule.table_side - 1, 0)) / last,
    )


def rows_needed(grids: Sequence[Grid], *, slots: int) -> int:
    """Rows of `slots` patches that these images and videos fill.

    Raises:
        InputError: a frame that no row holds.
    """
    return 1 + max((row for row, _ in _plan(grids, slots)), default=-1)


def to_rows(
    items: Sequence[Patched], *, rule: PatchRule, rows: int, slots: int, tokens: int | None = None
) -> LaidOut:
    """Lays the images and videos of a sample, in the order of its prompt, out in rows.

    Args:
        items: images and videos.
        rule: the rule they were cut by.
        rows, slots: the bucket. Rows divide by the mesh axes of "frames"; slots by 128 is best.
        tokens: length of the list of places, filled up with 0; by default what the items have.

    Raises:
        InputError: what does not fit, and the size that would.
    """
    plan = _plan([item.grid for item in items], slots)
    needed = 1 + max((row for row, _ in plan), default=-1)
    if needed > rows:
        raise InputError(f"images and videos need {needed} rows of {slots} patches, not {rows}")
    width = 3 * rule.temporal * rule.patch**2
    kind = items[0].patches.dtype if items else np.uint8
    out = PatchRows(
        patches=np.zeros((rows, slots, width), kind),
        coordinates=np.zeros((rows, slots, 2), np.int32),
        frames=np.full((rows, slots), -1, np.int32),
        windows=np.full((rows, slots), -1, np.int32),
        table=np.zeros((rows, slots, 2), np.float32),
    )
    places_of = _tokens(items, plan, slots, rule.merge**2, tokens)
    number, windows, spots = 0, 0, iter(plan)
    for item in items:
        frame = places(item.grid, rule=rule)
        size, count = len(frame.windows), int(frame.windows.max()) + 1
        for time in range(item.grid[0]):
            row, start = next(spots)
            here = row, slice(start, start + size)
            out.patches[here] = item.patches[time * size : (time + 1) * size]
            out.coordinates[here], out.table[here] = frame.coordinates, frame.table
            out.frames[here], out.windows[here] = number, windows + frame.windows
            number, windows = number + 1, windows + count
    return LaidOut(rows=out, tokens=places_of)


def token_index(
    visual: Bool[np.ndarray, "t"], tokens: Int32[np.ndarray, "u"]
) -> Int32[np.ndarray, "t"]:
    """For every slot of a prompt, which output token of the tower stands there; -1 for text.

    Args:
        visual: slots that hold a placeholder.
        tokens: `LaidOut.tokens`.

    Raises:
        InputError: more placeholders than tokens.
    """
    count = int(visual.sum())
    if count > len(tokens):
        raise InputError(f"the prompt has {count} placeholders for {len(tokens)} visual tokens")
    index = np.full(len(visual), -1, np.int32)
    index[visual] = tokens[:count]
    return index


def _plan(grids: Sequence[Grid], slots: int) -> list[tuple[int, int]]:
    """Row and first slot of every frame: the first row with room."""
    free: list[int] = []
    plan = []
    for grid in grids:
        size = grid[1] * grid[2]
        if size > slots:
            raise InputError(f"a frame of {grid[1]} x {grid[2]} patches does not fit {slots} slots")
        for _ in range(grid[0]):
            row = next((row for row, room in enumerate(free) if room >= size), len(free))
            if row == len(free):
                free.append(slots)
            plan.append((row, slots - free[row]))
            free[row] -= size
    return plan


def _tokens(
    items: Sequence[Patched],
    plan: Sequence[tuple[int, int]],
    slots: int,
    group: int,
    length: int | None,
) -> np.ndarray:
    sizes = [item.grid[1] * item.grid[2] // group for item in items for _ in range(item.grid[0])]
    starts = [(row * slots + start) // group for row, start in plan]
    runs = [start + np.arange(size) for start, size in zip(starts, sizes, strict=True)]
    found = np.concatenate(runs) if runs else np.zeros(0)
    length = len(found) if length is None else length
    if len(found) > length:
        raise InputError(f"images and videos have {len(found)} tokens, more than {length}")
    return np.pad(found, (0, length - len(found))).astype(np.int32)
