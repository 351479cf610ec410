"""Rows of patch slots: places, segments, packing, and where the tokens come out."""

import numpy as np
import pytest

from tgvlm_jax.data import qwen_rows as qr
from tgvlm_jax.data.qwen_patches import Patched, PatchRule
from tgvlm_jax.types import InputError

TINY = PatchRule(
    patch=4,
    min_pixels=0,
    max_pixels=10**9,
    video_min_pixels=0,
    video_max_pixels=10**9,
    window=16,
    table_side=4,
)


def patched(*grid):
    """Patches that say which they are."""
    count = int(np.prod(grid))
    return Patched(patches=np.tile(np.arange(1, count + 1)[:, None], 96), grid=grid)


def test_windows_are_those_of_the_published_permutation():
    """Sorting tokens by window gives Hugging Face's window_index, run lengths its cu_seqlens."""
    places = qr.places((2, 6, 10), rule=TINY)
    tokens = places.windows[::4]
    order = np.argsort(tokens, kind="stable")
    assert order.tolist() == [0, 1, 5, 6, 2, 3, 7, 8, 4, 9, 10, 11, 12, 13, 14]
    ends = np.cumsum(np.bincount(places.windows))
    assert ends.tolist() == [16, 32, 40, 48, 56, 60]


def test_places():
    places = qr.places((1, 4, 6), rule=TINY)
    assert places.coordinates[:8].tolist() == [
        [0, 0], [0, 1], [1, 0], [1, 1], [0, 2], [0, 3], [1, 2], [1, 3],
    ]  # fmt: skip
    corners = {tuple(c): tuple(t) for c, t in zip(places.coordinates, places.table, strict=True)}
    assert corners[(0, 0)] == (0, 0)
    assert corners[(3, 5)] == (3, 3)
    np.testing.assert_allclose(corners[(1, 2)], (1.0, 1.2), rtol=1e-6)


@pytest.mark.parametrize(("slots", "rows"), [(60, 3), (84, 2), (168, 1)])
def test_every_patch_is_in_one_place(slots, rows):
    items = [patched(1, 4, 6), patched(2, 6, 10), patched(1, 2, 2), patched(1, 4, 4)]
    grids = [item.grid for item in items]
    assert qr.rows_needed(grids, slots=slots) == rows
    got = qr.to_rows(items, rule=TINY, rows=rows, slots=slots)
    rows_of = got.rows
    flat = rows_of.patches[..., 0].reshape(-1, 4)
    # The tokens, read in their order, are the patches in theirs.
    wanted = np.concatenate([item.patches[:, 0] for item in items]).reshape(-1, 4)
    np.testing.assert_array_equal(flat[got.tokens], wanted)
    used = np.zeros(rows * slots // 4, bool)
    used[got.tokens] = True
    assert used.sum() == len(got.tokens) == sum(qr.token_count(g, rule=TINY) for g in grids)
    empty = ~np.repeat(used, 4).reshape(rows, slots)
    for array in (rows_of.frames, rows_of.windows):
        np.testing.assert_array_equal(array == -1, empty)
    assert not rows_of.patches[empty].any()
    # A frame stays in one row, and a window in one frame.
    assert len(np.unique(rows_of.frames[~empty])) == 5
    for frame in range(5):
        where = rows_of.frames == frame
        assert where.any(axis=1).sum() == 1
        inside = np.unique(rows_of.windows[where])
        assert not np.isin(rows_of.windows[~where], inside).any()


def test_the_bucket_does_not_change_with_the_sample():
    shapes = set()
    for items in ([patched(1, 4, 6)], [patched(2, 2, 2), patched(1, 6, 6)], []):
        got = qr.to_rows(items, rule=TINY, rows=2, slots=40, tokens=20)
        shapes.add((got.tokens.shape, *(np.shape(x) for x in vars(got.rows).values())))
    assert len(shapes) == 1


def test_token_index():
    visual = np.array([False, True, True, False, True])
    got = qr.token_index(visual, np.array([7, 8, 3], np.int32))
    assert got.tolist() == [-1, 7, 8, -1, 3]
    with pytest.raises(InputError, match="3 placeholders for 2"):
        qr.token_index(visual, np.array([7, 8], np.int32))


def test_what_does_not_fit():
    item = patched(3, 6, 10)
    with pytest.raises(InputError, match="need 3 rows of 64 patches, not 2"):
        qr.to_rows([item], rule=TINY, rows=2, slots=64)
    with pytest.raises(InputError, match="6 x 10 patches does not fit 56"):
        qr.to_rows([item], rule=TINY, rows=9, slots=56)
    with pytest.raises(InputError, match="45 tokens, more than 44"):
        qr.to_rows([item], rule=TINY, rows=3, slots=60, tokens=44)
