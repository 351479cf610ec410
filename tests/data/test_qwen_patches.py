"""Sizes, frame budgets and patches by the published processors' rules."""

import dataclasses

import numpy as np
import pytest

from tgvlm_jax.data import qwen_patches as qp
from tgvlm_jax.types import InputError

IMAGE = {"factor": 28, "min_pixels": 56 * 56, "max_pixels": 28 * 28 * 1280}
# VideoP2R: 16 frames of 128 tokens' worth of pixels.
VIDEOP2R = dataclasses.replace(qp.QWEN2_5_VL, video_max_pixels=128 * 784)
PATCH_4 = qp.PatchRule(
    patch=4, min_pixels=0, max_pixels=10**9, video_min_pixels=0, video_max_pixels=10**9
)


@pytest.mark.parametrize(
    ("size", "wanted"),
    [
        ((42, 70), (56, 56)),  # 1.5 and 2.5 both round to 2
        ((280, 280), (280, 280)),
        ((294, 322), (280, 336)),  # 10.5 to 10, 11.5 to 12
        ((1080, 1920), (728, 1316)),
        ((10, 10), (56, 56)),
        ((28, 28 * 200), (28, 5600)),
    ],
)
def test_image_sizes(size, wanted):
    height, width = qp.smart_resize(*size, **IMAGE)
    assert (height, width) == wanted


def test_size_limits_and_shapes():
    for size in [(5000, 31), (37, 2200), (720, 1280), (3, 300)]:
        height, width = qp.smart_resize(*size, **IMAGE)
        assert IMAGE["min_pixels"] <= height * width <= IMAGE["max_pixels"]
    # What qwen-vl-utils clamps first, the processors scale up whole.
    assert qp.smart_resize(13, 1300, **IMAGE) == (28, 560)
    assert qp.smart_resize(13, 1300, **IMAGE, clamp=True) == (28, 1288)
    with pytest.raises(InputError, match="200 times"):
        qp.smart_resize(10, 2001, **IMAGE)
    with pytest.raises(InputError, match="200 times"):
        qp.clip_resize(4, 40, 9000, factor=32, temporal=2, min_pixels=1, max_pixels=10**9)


def test_clip_limits_count_all_frames():
    limits = {"factor": 32, "temporal": 2, "min_pixels": 4096, "max_pixels": 64 * 320 * 320}
    assert qp.clip_resize(64, 320, 320, **limits) == (320, 320)
    assert qp.clip_resize(128, 320, 320, **limits) == (224, 224)
    assert qp.clip_resize(2, 20, 30, **limits) == (32, 64)  # 32 x 48 first: 1.5 to 2
    with pytest.raises(InputError, match="fewer than the 2"):
        qp.clip_resize(1, 320, 320, **limits)


def test_video_budget():
    """The cap of a frame is 1.05 times the least, however many frames share the total."""
    for frames in (4, 16, 768):
        assert qp.video_size(frames, 360, 640, rule=VIDEOP2R) == (224, 420)
    # 12 x 11 = 132 tokens, within 1.05 * 128 = 134 though not within 128.
    assert qp.video_size(16, 336, 308, rule=VIDEOP2R) == (336, 308)
    assert qp.video_size(16, 364, 308, rule=VIDEOP2R) == (336, 280)
    few = qp.video_size(16, 1080, 1920, rule=qp.QWEN2_5_VL)
    many = qp.video_size(768, 1080, 1920, rule=qp.QWEN2_5_VL)
    assert few == (560, 1008)
    assert many[0] * many[1] <= 0.9 * 128_000 * 784 / 384 < few[0] * few[1]
    assert qp.video_size(16, 720, 1280, rule=qp.QWEN3_VL) == (704, 1280)
    assert qp.video_size(768, 720, 1280, rule=qp.QWEN3_VL) == (128, 224)


@pytest.mark.parametrize(
    ("frames", "fps", "most", "wanted"),
    [
        (300, 30.0, 768, 20),
        (9000, 30.0, 768, 600),
        (9000, 30.0, 16, 16),
        (100, 24.0, 768, 8),
        (30, 30.0, 768, 4),
        (5, 1.0, 768, 4),
        (3, 30.0, 768, 2),
    ],
)
def test_frame_count(frames, fps, most, wanted):
    assert qp.frame_count(frames, fps, most=most) == wanted


def test_frame_count_of_almost_nothing():
    with pytest.raises(InputError, match="1 frames"):
        qp.frame_count(1, 30.0)


def test_frame_indices():
    assert qp.frame_indices(10, 4).tolist() == [0, 3, 6, 9]
    assert qp.frame_indices(6, 3).tolist() == [0, 2, 5]  # 2.5 goes to 2
    assert qp.frame_indices(5, 1).tolist() == [0]
    long = qp.frame_indices(54_321, 768)
    assert long[0] == 0
    assert long[-1] == 54_320
    assert (np.diff(long) > 0).all()


def test_stamps():
    assert qp.frame_stamps(np.array([0.0, 0.5, 1.0, 1.5, 2.04])) == [
        "<0.2 seconds>",
        "<1.2 seconds>",
        "<2.0 seconds>",
    ]


def test_order_of_patches():
    video = np.arange(4 * 3 * 8 * 16).reshape(4, 3, 8, 16).transpose(0, 2, 3, 1)
    got = qp.patchify(video, rule=PATCH_4)
    assert got.grid == (2, 2, 4)
    first = [0, 4, 64, 68, 8, 12, 72, 76, 768, 772, 832, 836, 776, 780, 840, 844]
    assert got.patches[:, 0].tolist() == first
    # Within a patch: channel, frame, y, x.
    rest = got.patches[3].reshape(3, 2, 4, 4)
    for c, t, y, x in [(0, 0, 0, 1), (0, 0, 1, 0), (0, 1, 0, 0), (1, 0, 0, 0), (2, 1, 3, 2)]:
        assert rest[c, t, y, x] == video[t, 4 + y, 4 + x, c]


def test_odd_frames_are_filled_up():
    rng = np.random.default_rng(0)
    video = rng.integers(0, 256, (3, 8, 8, 3), np.uint8)
    got = qp.patchify(video, rule=PATCH_4)
    filled = qp.patchify(video[[0, 1, 2, 2]], rule=PATCH_4)
    np.testing.assert_array_equal(got.patches, filled.patches)
    image = qp.patchify(video[:1], rule=PATCH_4)
    halves = image.patches.reshape(4, 3, 2, 16)
    np.testing.assert_array_equal(halves[:, :, 0], halves[:, :, 1])


@pytest.mark.parametrize("rule", [qp.QWEN2_5_VL, qp.QWEN3_VL])
@pytest.mark.parametrize("size", [(97, 331), (240, 180)])
def test_images_equal_the_published_processor(rule, size):
    module = pytest.importorskip("transformers.models.qwen2_vl.image_processing_pil_qwen2_vl")
    mean, std = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)
    theirs = module.Qwen2VLImageProcessorPil(
        size={"shortest_edge": rule.min_pixels, "longest_edge": rule.max_pixels},
        patch_size=rule.patch,
        image_mean=mean,
        image_std=std,
    )
    pixels = np.random.default_rng(1).integers(0, 256, (*size, 3), np.uint8)
    wanted = theirs(images=[pixels], return_tensors="np")
    got = qp.image_patches(pixels, rule=rule)
    assert got.grid == tuple(wanted["image_grid_thw"][0])
    each = got.patches.shape[1] // 3
    floats = (got.patches / np.float32(255) - np.repeat(mean, each)) / np.repeat(std, each)
    np.testing.assert_allclose(floats, wanted["pixel_values"], atol=1e-5)


def test_videos():
    frames = np.random.default_rng(2).integers(0, 256, (5, 90, 160, 3), np.uint8)
    got = qp.video_patches(frames, rule=VIDEOP2R)
    assert got.patches.dtype == np.uint8
    # 90 x 160 is too small: scaled up to at least 128 tokens.
    assert got.grid == (3, 18, 32)
    assert got.patches.shape == (3 * 18 * 32, 1176)
    with pytest.raises(InputError, match="without frames"):
        qp.video_patches(frames[:0], rule=VIDEOP2R)
