"""M-RoPE positions by hand-written examples; golden vectors cover whole prompts."""

import numpy as np
import pytest

from tgvlm_jax.data import mrope
from tgvlm_jax.types import InputError


def prompt(*runs):
    """Runs of text (positive) and placeholders (negative)."""
    return np.concatenate([np.full(abs(n), n < 0) for n in runs])


# 4 tokens, an image of 4 x 6 patches, 4 tokens, a video of 8 x 6 x 10 patches, 4 tokens.
PROMPT = prompt(4, -6, 4, -120, 4)


def two_items(seconds):
    return [mrope.image_item(4, 6), mrope.video_item((8, 6, 10), seconds=seconds)]


@pytest.mark.parametrize(
    ("seconds", "times", "after", "delta"),
    [
        (1.0, [11, 13, 15, 17, 19, 21, 23, 25], 26, -112),
        (0.5, [11, 12, 13, 14, 15, 16, 17, 18], 19, -118),
        (0.7, [11, 12, 13, 15, 16, 18, 19, 20], 21, -117),
    ],
)
def test_both_rules(seconds, times, after, delta):
    for style, follows in (("release", after), ("hf5", 16)):
        got = mrope.positions(PROMPT, two_items(seconds), style=style)
        time, row, column = got.ids
        assert time[:10].tolist() == [0, 1, 2, 3] + [4] * 6
        assert row[4:10].tolist() == [4, 4, 4, 5, 5, 5]
        assert column[4:10].tolist() == [4, 5, 6, 4, 5, 6]
        assert (got.ids[:, 10:14] == [7, 8, 9, 10]).all()
        video = got.ids[:, 14:134].reshape(3, 8, 3, 5)
        assert video[0, :, 0, 0].tolist() == times
        assert (video[0] == video[0, :, :1, :1]).all()
        assert (video[1] == 11 + np.arange(3)[:, None]).all()
        assert (video[2] == 11 + np.arange(5)).all()
        assert (got.ids[:, 134:] == follows + np.arange(4)).all()
        assert got.delta == (got.ids.max() + 1 - len(PROMPT))
    assert got.delta == delta


def test_padding():
    visual = np.concatenate([prompt(5), prompt(2, -6, 3)])
    filled = np.arange(16) >= 5
    items = [mrope.image_item(4, 6)]
    bare = mrope.positions(visual[5:], items)
    for style, at, delta in (("release", 1, bare.delta - 5), ("hf5", 0, bare.delta)):
        left = mrope.positions(visual, items, filled=filled, style=style)
        np.testing.assert_array_equal(left.ids[:, 5:], bare.ids)
        assert (left.ids[:, :5] == at).all()
        assert left.delta == delta
        right = mrope.positions(np.roll(visual, -5), items, filled=filled[::-1], style=style)
        np.testing.assert_array_equal(right.ids[:, :11], bare.ids)
        assert right.delta == delta


def test_text_alone_counts_up():
    got = mrope.positions(prompt(7), [])
    assert (got.ids == np.arange(7)).all()
    assert got.delta == 0


def test_items_may_touch():
    """Without a token between them, a run of placeholders ends where its item does."""
    got = mrope.positions(prompt(1, -6, -1, 1), [mrope.image_item(4, 6), mrope.image_item(2, 2)])
    assert got.ids[0].tolist() == [0] + [1] * 6 + [4, 5]


def test_frames_of_qwen3_stand_alone():
    frames = mrope.video_frames((2, 4, 4))
    apart = prompt(3, -4, 5, -4, 1)
    got = [mrope.positions(apart, frames, style=style) for style in ("release", "hf5")]
    np.testing.assert_array_equal(got[0].ids, got[1].ids)
    assert got[0].ids[0].tolist() == [0, 1, 2] + [3] * 4 + [5, 6, 7, 8, 9] + [10] * 4 + [12]


@pytest.mark.parametrize(
    ("visual", "items", "says"),
    [
        (prompt(2, -5, 1), [mrope.image_item(4, 6)], "5 placeholders in a row"),
        (prompt(2, -6, 1, -1), [mrope.image_item(4, 6)], "belong to no image"),
        (prompt(2, -6), [mrope.image_item(4, 6)] * 2, "have no placeholders"),
        (prompt(1, -8, 1, -8), [mrope.video_item((4, 4, 4))], "8 placeholders in a row"),
    ],
)
def test_placeholders_must_match(visual, items, says):
    with pytest.raises(InputError, match=says):
        mrope.positions(visual, items)
