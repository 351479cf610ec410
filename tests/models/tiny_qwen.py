"""Two small Qwen-VL models with every part of the large ones, and prompts with what they see."""

import math

import jax
import numpy as np

from tgvlm_jax.data import mrope, qwen_patches
from tgvlm_jax.data.qwen_prompt import Bucket, Seen, prompt_row
from tgvlm_jax.schema import DecoderConfig, LoraConfig, QwenVisionConfig, RopeConfig, presets

LORA = (
    LoraConfig(pattern=r"decoder\.blocks\.(q|v|down)$", rank=4, alpha=8.0, dropout=0.5),
    LoraConfig(pattern=r"tower\.blocks\.qkv$", rank=2, alpha=2.0),
)
_TOWER = {"layers": 2, "width": 16, "heads": 2, "hidden": 24, "out_width": 16, "patch": 4}
_TEXT = {"vocab_size": 64, "width": 16, "layers": 3, "heads": 4, "kv_heads": 2, "head_size": 8}
CONFIGS = {
    "qwen2_5_vl": presets.qwen_vl(
        QwenVisionConfig(kind="qwen2_5_vl", full_layers=(1,), **_TOWER),
        DecoderConfig(hidden=32, qkv_bias=True, rope=RopeConfig(sections=(1, 2, 1)), **_TEXT),
    ),
    "qwen3_vl": presets.qwen_vl(
        QwenVisionConfig(kind="qwen3_vl", table_side=3, deepstack=(0, 1), **_TOWER),
        DecoderConfig(
            hidden=32,
            qk_norm=True,
            tie_embeddings=False,
            rope=RopeConfig(sections=(2, 1, 1), interleaved=True),
            **_TEXT,
        ),
    ),
}
RULE = qwen_patches.PatchRule(
    patch=4,
    min_pixels=64,
    max_pixels=10_000,
    video_min_pixels=64,
    video_max_pixels=10_000,
    window=16,
    table_side=3,
)
PLACEHOLDER = 63
# What is seen, by row of a batch: grids of a text, an image, a video, and an image after a video.
GRIDS = ((), ((1, 4, 6),), ((2, 4, 4),), ((2, 2, 4), (1, 4, 4)))


def _seen(rng, grid, kind):
    patches = rng.integers(0, 256, (math.prod(grid), 96), np.uint8)
    if grid[0] == 1:
        items = (mrope.image_item(*grid[1:]),)
    elif kind == "qwen3_vl":
        items = tuple(mrope.video_frames(grid))
    else:
        items = (mrope.video_item(grid, seconds=0.7),)
    return Seen(patched=qwen_patches.Patched(patches=patches, grid=grid), items=items)


def prompt(kind, *, after=None, length=32, pad_id=0):
    """A ragged batch: text, what is seen, text; `after` are further ids behind each row."""
    rows = []
    for number, grids in enumerate(GRIDS):
        rng = np.random.default_rng(number)
        seen = [_seen(rng, grid, kind) for grid in grids]
        counts = [2 + number]  # of text and visual tokens, in turns
        for one in seen:
            for item in one.items:  # of a Qwen3-VL video, a stamp before every frame
                counts += [math.prod(item.grid) // 4, 2]
        visual = np.repeat(np.arange(len(counts)) % 2 == 1, counts)
        ids = np.where(visual, PLACEHOLDER, rng.integers(1, 60, len(visual)))
        more = np.zeros(0, np.int32) if after is None else after[number]
        rows.append(
            prompt_row(
                np.concatenate([ids, more]).astype(np.int32),
                np.pad(visual, (0, len(more))),
                seen=seen,
                rule=RULE,
                bucket=Bucket(length=length, rows=4, slots=24),
                pad_id=pad_id,
            )
        )
    return jax.tree.map(lambda *values: np.stack(values), *rows)
