"""How a Qwen-VL model is shown videos: the size of their frames, their patches, their times.

Qwen3-VL reads the time of every pair of frames in words before it and sees the pair as an item of
its own; Qwen2.5-VL sees a video as one item, whose positions tell the time.
"""

import dataclasses

import numpy as np
from jaxtyping import Float64, UInt8

from tgvlm_jax.data import mrope, qwen_patches
from tgvlm_jax.data.qwen_patches import PatchRule
from tgvlm_jax.data.qwen_prompt import Bucket, Seen
from tgvlm_jax.schema import DataConfig, ModelConfig, QwenVisionConfig

START, PAD, END = "<|vision_start|>", "<|video_pad|>", "<|vision_end|>"
_ITEM = f"{START}{PAD}{END}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Shown:
    """A video of a prompt: its text, with one `PAD` for each item of `seen`."""

    text: str
    seen: Seen


def rule_of(tower: QwenVisionConfig, *, min_pixels: int, max_pixels: int) -> PatchRule:
    """How a tower's videos are cut up, within these pixels a frame."""
    return PatchRule(
        patch=tower.patch,
        temporal=tower.temporal,
        merge=tower.merge,
        min_pixels=min_pixels,
        max_pixels=max_pixels,
        video_min_pixels=min_pixels,
        video_max_pixels=max_pixels,
        window=tower.window,
        table_side=tower.table_side,
    )


def show(
    frames: UInt8[np.ndarray, "f y x 3"],
    seconds: Float64[np.ndarray, "f"],
    *,
    tower: QwenVisionConfig,
    rule: PatchRule,
) -> Shown:
    """Scales frames by the rule and cuts them; `seconds` are what the model is told of time.

    Raises:
        InputError: no frames, or of a shape that no rule allows.
    """
    patched = qwen_patches.video_patches(frames, rule=rule)
    if not tower.tokens_per_second:
        stamps = qwen_patches.frame_stamps(seconds, temporal=rule.temporal)
        items = tuple(mrope.video_frames(patched.grid))
        text = "".join(stamp + _ITEM for stamp in stamps)
        return Shown(text=text, seen=Seen(patched=patched, items=items))
    step = float(np.diff(seconds).mean()) if len(seconds) > 1 else 1.0
    item = mrope.video_item(patched.grid, seconds=rule.temporal * step)
    return Shown(text=_ITEM, seen=Seen(patched=patched, items=(item,)))


def bucket_of(tower: QwenVisionConfig, config: DataConfig) -> Bucket:
    """The one shape of all prompts of a run."""
    rows = config.patch_rows or -(-max(config.frames) // tower.temporal)
    token = tower.merge**2
    pixels = max(config.max_pixels, int(1.05 * config.min_pixels))  # as `video_size` has it
    largest = pixels // tower.patch**2 // token * token
    return Bucket(length=config.prompt_tokens, rows=rows, slots=config.patch_slots or largest)


def shown_size(
    height: int, width: int, *, model: ModelConfig, config: DataConfig
) -> tuple[int, int]:
    """Height and width in which a model sees the frames of a video of this size.

    Raises:
        InputError: it sees none, or a side is over 200 times the other.
    """
    if not isinstance(model.tower, QwenVisionConfig):
        size = model.frame_size
        assert size is not None, "of towers, only Qwen-VL's take frames of all sizes"
        return size
    rule = rule_of(model.tower, min_pixels=config.min_pixels, max_pixels=config.max_pixels)
    return qwen_patches.video_size(1, height, width, rule=rule)
