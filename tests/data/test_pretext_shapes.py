"""Shapes as they come out: the right size, in the right place, on the frame only."""

import itertools
import math
import random

import numpy as np
import pytest

from tgvlm_jax.data import pretext_shapes
from tgvlm_jax.data.pretext_shapes import Drawing

BLACK = np.zeros((120, 160, 3), np.uint8)
COLOUR = (10, 20, 30)


def drawn(shape, size=40, centre=(80, 60), angle=0.0, frame=BLACK):
    one = Drawing(shape=shape, size=size, centre=centre, angle=angle, colour=COLOUR)
    return pretext_shapes.draw(frame, one)


def covered(frame):
    return np.any(frame, axis=-1)


@pytest.mark.parametrize("angle", [0.0, 33.3, 90.0, 211.0])
@pytest.mark.parametrize(
    ("shape", "area"),
    [("circle", math.pi * 20**2), ("square", 40**2), ("triangle", 20 * int(20 * math.sqrt(3)))],
)
def test_area_and_centre(shape, area, angle):
    mask = covered(drawn(shape, angle=angle))
    assert mask.sum() == pytest.approx(area, rel=0.15)  # the outline is part of it
    rows, columns = np.nonzero(mask)
    # A triangle turns about half its height, a sixth above its centroid.
    off = 20 * math.sqrt(3) / 6 if shape == "triangle" else 0
    assert math.dist((columns.mean(), rows.mean()), (80, 60)) == pytest.approx(off, abs=1)


def test_a_triangle_points_up_and_turns_against_the_clock():
    assert np.nonzero(covered(drawn("triangle")).any(axis=1))[0][0] == 60 - 17
    left = covered(drawn("triangle", angle=90.0))
    assert np.nonzero(left.any(axis=0))[0][0] == 80 - 17
    assert left[:, 63].sum() <= 2


@pytest.mark.parametrize("shape", ["circle", "square", "triangle"])
def test_what_lies_outside_is_cut_and_what_is_under_it_covered(shape):
    white = np.full_like(BLACK, 255)
    frame = drawn(shape, centre=(0, 0), angle=17.0, frame=white)
    mask = np.all(frame == COLOUR, axis=-1)
    assert 0 < mask.sum() < mask.size
    assert np.all(frame[~mask] == 255)
    nothing = drawn(shape, centre=(-200, -200), angle=17.0)
    assert not covered(nothing).any()
    np.testing.assert_array_equal(white, 255)


def test_shapes_keep_away_from_each_other_and_from_the_edge():
    near = []
    for seed in range(30):
        placed = pretext_shapes.place("square", 3, random.Random(seed), height=360, width=640)
        for one in placed:
            assert 72 <= one.size <= 144
            assert one.centre[0] - 0.7 * one.size >= 0.15 * 640
            assert one.centre[1] + 0.7 * one.size <= 0.85 * 360 + 1
            assert all(50 <= channel <= 255 for channel in one.colour)
        near += [
            math.dist(a.centre, b.centre) < b.size for a, b in itertools.combinations(placed, 2)
        ]
    assert np.mean(near) < 0.2  # after so many tries they may


def test_a_frame_without_room_still_gets_its_shapes():
    placed = pretext_shapes.place("circle", 3, random.Random(0), height=8, width=300)
    assert len(placed) == 3
    assert all(0 <= one.centre[1] <= 8 for one in placed)
