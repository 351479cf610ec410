"""What Qwen3-VL is told of a video's times, against the text that transformers' processor makes."""

import types

import numpy as np
import pytest

pytest.importorskip("torch", reason="compares with torch: pip install '.[parity]'")
from transformers.models.qwen3_vl import processing_qwen3_vl as processing

from tgvlm_jax.data import patch_videos
from tgvlm_jax.models import presets
from tgvlm_jax.schema import DataConfig

pytestmark = pytest.mark.parity


@pytest.mark.parametrize(("count", "fps", "stride"), [(8, 30.0, 15), (5, 24.0, 7), (1, 2.0, 1)])
def test_stamps_and_placeholders(count, fps, stride):
    config = DataConfig(min_pixels=128, max_pixels=4096)
    videos = patch_videos.of_config(presets.QWEN3_VL_TINY.tower, config)
    rng = np.random.default_rng(count)
    places = np.arange(count) * stride
    shown = videos.show(rng.integers(0, 256, (count, 40, 60, 3), np.uint8), places / fps)
    start, pad, end = patch_videos.MARKS
    processor = types.SimpleNamespace(
        video_processor=types.SimpleNamespace(merge_size=2, temporal_patch_size=2),
        vision_start_token=start,
        video_token=pad,
        vision_end_token=end,
    )
    processor._calculate_timestamps = types.MethodType(
        processing.Qwen3VLProcessor._calculate_timestamps, processor
    )
    wanted = processing.Qwen3VLProcessor.replace_video_token(
        processor,
        {
            "video_grid_thw": np.array([shown.seen.patched.grid]),
            "video_metadata": [types.SimpleNamespace(fps=fps, frames_indices=places)],
        },
        0,
    )
    assert len(set(shown.tokens)) == 1
    assert shown.text.replace(pad, pad * shown.tokens[0]) == wanted
