"""Circles, squares and triangles drawn on frames: the object counting of VideoSSR (1.2).

Filled, without smoothing, pixel for pixel as OpenCV fills them, which the released generator uses.
"""

import dataclasses
import math
import random
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int64, UInt8

Frame = UInt8[np.ndarray, "y x 3"]
Point = tuple[int, int]  # column, row

_SIZES = (0.2, 0.4)  # of the shorter side
_EDGE = 0.15  # of each side stays free
_MARGIN = 0.75  # of the size, from a centre to that edge
_TRIES = 20  # until two shapes may touch
_ONE = 1 << 16  # fixed-point one of the polygon filler


@dataclasses.dataclass(frozen=True, kw_only=True)
class Drawing:
    """One shape on a frame.

    Attributes:
        size: diameter or side in pixels. centre: (x, y).
        angle: degrees, counter-clockwise as seen. colour: RGB.
    """

    shape: str
    size: int
    centre: tuple[int, int]
    angle: float
    colour: tuple[int, ...]


def place(
    shape: str, count: int, rng: random.Random, *, height: int, width: int
) -> tuple[Drawing, ...]:
    """Colours, sizes, places and angles of `count` shapes on a frame.

    Centres keep a size away from each other where 20 draws find room.
    """
    shorter = min(height, width)
    placed: list[Drawing] = []
    for _ in range(count):
        colour = tuple(rng.randint(50, 255) for _ in range(3))
        size = rng.randint(*(int(share * shorter) for share in _SIZES))
        margin = int(_MARGIN * size)
        low = [int(side * _EDGE) + margin for side in (width, height)]
        high = [int(side * (1 - _EDGE)) - margin for side in (width, height)]
        if low[0] >= high[0] or low[1] >= high[1]:
            centre = (rng.randint(margin, width - margin), rng.randint(margin, height - margin))
        else:
            for _ in range(_TRIES):
                centre = (rng.randint(low[0], high[0]), rng.randint(low[1], high[1]))
                if all(math.dist(centre, one.centre) >= size for one in placed):
                    break
        angle = rng.uniform(0, 360)
        placed.append(
            # Drawn for a picture in BGR.
            Drawing(shape=shape, size=size, centre=centre, angle=angle, colour=colour[::-1])
        )
    return tuple(placed)


def draw(frame: Frame, drawing: Drawing) -> Frame:
    """The frame with one more shape on it."""
    height, width, _ = frame.shape
    if drawing.shape == "circle":
        covered = _disc(drawing.centre, drawing.size // 2, height=height, width=width)
    else:
        covered = _polygon(corners(drawing), height=height, width=width)
    return np.where(covered[..., None], np.asarray(drawing.colour, np.uint8), frame)


def corners(drawing: Drawing) -> Int64[np.ndarray, "corner 2"]:
    """(x, y) of a square's or a triangle's corners, cut to whole pixels."""
    half = drawing.size // 2
    if drawing.shape == "square":
        points = [(-half, -half), (half, -half), (half, half), (-half, half)]
    else:
        tall = int(drawing.size * math.sqrt(3) / 2)
        points = [(0, -tall / 2), (-half, tall / 2), (half, tall / 2)]
    cos, sin = math.cos(math.radians(drawing.angle)), math.sin(math.radians(drawing.angle))
    across, down = np.asarray(points, np.float32).T
    turned = [_turn(across, cos, down, sin), _turn(across, -sin, down, cos)]
    return (np.stack(turned, axis=1) + np.asarray(drawing.centre)).astype(np.int64)


def _turn(
    x: Float32[np.ndarray, "corner"], a: float, y: Float32[np.ndarray, "corner"], b: float
) -> Float64[np.ndarray, "corner"]:
    """a x + b y, rounded to float32 after the second product and at the end.

    OpenCV computes it with one fused multiplication; a corner may sit on the border of a pixel.
    """
    rounded = (y * np.float32(b)).astype(np.float64)
    return (x.astype(np.float64) * np.float32(a) + rounded).astype(np.float32).astype(np.float64)


def _disc(
    centre: tuple[int, int], radius: int, *, height: int, width: int
) -> Bool[np.ndarray, "y x"]:
    """Rows between the points of the midpoint circle algorithm."""
    covered = np.zeros((height, width), bool)
    x, y = centre

    def rows(up: int, across: int) -> None:
        for row in (y - up, y + up):
            if 0 <= row < height:
                covered[row, max(0, x - across) : max(0, x + across + 1)] = True

    dx, dy, error, plus, minus = radius, 0, 0, 1, 2 * radius - 1
    while dx >= dy:
        rows(dy, dx)
        rows(dx, dy)
        dy, error, plus = dy + 1, error + plus, plus + 2
        if error > 0:
            dx, error, minus = dx - 1, error - minus, minus - 2
    return covered


def _polygon(
    points: Int64[np.ndarray, "corner 2"], *, height: int, width: int
) -> Bool[np.ndarray, "y x"]:
    """The outline, and in each row what lies between pairs of edges."""
    covered = np.zeros((height, width), bool)
    last, edges = (width - 1, height - 1), []
    corner = [tuple(point) for point in points.tolist()]
    for start, end in zip([corner[-1], *corner[:-1]], corner, strict=True):
        seen = _clip(start, end, height=height, width=width)
        if not any(_side(seen[0], last) + _side(seen[1], last)):
            covered[tuple(_line(*seen).T)] = True
        if start[1] != end[1]:
            edges.append(_edge(start, end, seen))
    for row in range(max(0, points[:, 1].min()), min(height, points[:, 1].max())):
        crossed = sorted(
            x + (row - top) * slope for top, bottom, x, slope in edges if top <= row < bottom
        )
        for left, right in zip(crossed[::2], crossed[1::2], strict=True):
            first, behind = (left + _ONE - 1) // _ONE, right // _ONE + 1
            covered[row, max(0, first) : max(0, behind)] = True
    return covered


def _edge(start: Point, end: Point, seen: tuple[Point, Point]) -> tuple[int, ...]:
    """Top row, the row behind, and in fixed point the column at the top and the step by row.

    The slope is that of the part of the edge that lies on the frame, which was rounded; upright
    where only a point of it does.
    """
    near, far = seen
    if near[1] == far[1]:
        near, far = (near[0], start[1]), (far[0], end[1])
    # Whole division rounds towards zero.
    run, rise = (far[0] - near[0]) * _ONE, far[1] - near[1]
    slope = abs(run) // abs(rise) * (1 if run * rise > 0 else -1)
    anchor, top = (near, start) if start[1] < end[1] else (far, end)
    x = anchor[0] * _ONE + (top[1] - anchor[1]) * slope
    return top[1], max(start[1], end[1]), x, slope


def _clip(start: Point, end: Point, *, height: int, width: int) -> tuple[Point, Point]:
    """A line cut at the frame's border, rows first, rounded towards the end that is cut.

    A line that passes the frame by stays outside it, cut or not.
    """
    last = (width - 1, height - 1)
    ends = [list(start), list(end)]
    for axis in (1, 0):
        if any(a == b != 0 for a, b in zip(*(_side(one, last) for one in ends), strict=True)):
            break
        for mine in ends:
            side = _side(mine, last)[axis]
            if side:
                bound = 0 if side < 0 else last[axis]
                run = ends[1][1 - axis] - ends[0][1 - axis]
                mine[1 - axis] += int((bound - mine[axis]) * run / (ends[1][axis] - ends[0][axis]))
                mine[axis] = bound
    (x0, y0), (x1, y1) = ends
    return (x0, y0), (x1, y1)


def _side(point: Sequence[int], last: Point) -> tuple[int, ...]:
    """-1 before the frame, 0 on it, 1 behind it, for columns and rows."""
    return tuple(int(at > most) - int(at < 0) for at, most in zip(point, last, strict=True))


def _line(start: Point, end: Point) -> Int64[np.ndarray, "point 2"]:
    """(row, column) of every point of a line, from left to right (Bresenham)."""
    (x0, y0), (x1, y1) = (end, start) if end[0] < start[0] else (start, end)
    down = 1 if y1 >= y0 else -1
    across, along = sorted((x1 - x0, abs(y1 - y0)))
    step, aside, error = np.arange(along + 1), [], along - 2 * across
    moved = 0
    for _ in step:
        aside.append(moved)
        if error < 0:
            moved, error = moved + 1, error + 2 * along
        error -= 2 * across
    steep = abs(y1 - y0) > x1 - x0
    rows, columns = (step, aside) if steep else (aside, step)
    return np.stack([y0 + down * np.asarray(rows), x0 + np.asarray(columns)], axis=1)
