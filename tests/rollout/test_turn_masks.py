"""Masks from markers."""

import numpy as np
import pytest

from tgvlm_jax.rollout import turn_masks
from tgvlm_jax.types import InputError

BEGIN, END, PAD = 91, 92, 0


def masks(*rows):
    longest = max(map(len, rows))
    tokens = np.asarray([row + [PAD] * (longest - len(row)) for row in rows], np.int32)
    attended = np.asarray([[i < len(row) for i in range(longest)] for row in rows])
    return turn_masks.from_markers(tokens, attended, begin=BEGIN, end=END, pad=PAD)


def test_markers_go_and_what_they_held_is_the_policys():
    found = masks([5, BEGIN, 6, 7, END, 8, BEGIN, 9, END], [5, 6])
    np.testing.assert_array_equal(found.tokens, [[5, 6, 7, 8, 9, 0, 0, 0, 0], [5, 6] + [0] * 7])
    np.testing.assert_array_equal(np.flatnonzero(found.own[0]), [1, 2, 4])
    np.testing.assert_array_equal(np.flatnonzero(found.ends[0]), [2, 4])
    np.testing.assert_array_equal(found.attended.sum(axis=1), [5, 2])
    assert not found.own[1].any()


def test_a_turn_without_a_token_has_no_end():
    found = masks([5, BEGIN, END, BEGIN, 6, END])
    np.testing.assert_array_equal(found.tokens[0], [5, 6, 0, 0, 0, 0])
    np.testing.assert_array_equal(found.ends, found.own)


@pytest.mark.parametrize("row", [[BEGIN, 5], [5, END], [BEGIN, BEGIN, 5, END, END], [END, BEGIN]])
def test_markers_come_in_pairs(row):
    with pytest.raises(InputError, match="91 and 92 must stand in pairs"):
        masks([*row])
