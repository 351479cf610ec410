"""Candidate frames: how many, where, which of them matter, at what size."""

import numpy as np
import pytest

from tgvlm_jax.data import frame_pool, qwen_patches
from tgvlm_jax.types import InputError


@pytest.mark.parametrize(
    ("frames", "fps", "size"), [(250, 25.0, 10), (275, 25.0, 10), (25, 25.0, 4), (90_000, 25.0, 64)]
)
def test_one_candidate_a_second_up_to_the_most(frames, fps, size):
    pool = frame_pool.frame_pool(frames, fps)
    assert len(pool.frames) == size
    assert pool.fps == pytest.approx(size / (frames / fps))
    assert (pool.frames[0], pool.frames[-1]) == (0, frames - 1)
    assert np.all(np.diff(pool.frames) > 0)


def test_a_video_of_one_frame_is_refused():
    with pytest.raises(InputError, match="1 frames"):
        frame_pool.frame_pool(1, 25.0)


def test_relevant_frames_lie_in_a_window():
    seconds = np.arange(10) * 2.0
    windows = np.asarray([[3.0, 6.0], [17.5, 99.0]])
    assert frame_pool.relevant(windows, seconds) == {2, 3, 9}
    assert frame_pool.relevant(np.zeros((0, 2)), seconds) == frozenset()


@pytest.mark.parametrize("factor", [frame_pool.TRAINING_FACTOR, frame_pool.EVALUATION_FACTOR])
def test_frames_have_about_128_tokens_of_their_factor(factor):
    height, width = qwen_patches.video_size(64, 720, 1280, rule=frame_pool.size_rule(factor))
    assert height % factor == width % factor == 0
    assert height * width / factor**2 == pytest.approx(128, rel=0.08)
