"""How a Qwen-VL model is shown videos: the size of their frames, their patches, their times.

Qwen3-VL reads the time of every pair of frames in words before it and sees the pair as an item of
its own; Qwen2.5-VL sees a video as one item, whose positions tell the time.
"""

import dataclasses
import math

import numpy as np
from jaxtyping import Float64, UInt8

from tgvlm_jax.data import mrope, qwen_patches
from tgvlm_jax.data.qwen_patches import PatchRule
from tgvlm_jax.data.qwen_prompt import Bucket, Seen
from tgvlm_jax.schema import DataConfig, ModelConfig, QwenVisionConfig, TimesformerConfig

MARKS = ("<|vision_start|>", "<|video_pad|>", "<|vision_end|>")
"""Special tokens: the placeholder of visual tokens between two brackets."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Shown:
    """A video of a prompt.

    Attributes:
        text: with one placeholder for each item. tokens: that each item has.
        seen: the patches.
    """

    text: str
    tokens: tuple[int, ...]
    seen: Seen


@dataclasses.dataclass(frozen=True, kw_only=True)
class PatchVideos:
    """How videos are shown to one tower; `rule` says how they are cut.

    `grid_seconds` are what a tower without times in words is told that each temporal patch lasts,
    0 for how long it does.
    """

    tower: QwenVisionConfig
    rule: PatchRule
    grid_seconds: float = 0.0

    def show(
        self,
        frames: UInt8[np.ndarray, "f y x 3"],
        seconds: Float64[np.ndarray, "f"],
        *,
        pixels: bool = True,
    ) -> Shown:
        """Scales frames and cuts them; `seconds` are what the model is told of time.

        Without `pixels` there are no patches, and all else is the same, at little cost.

        Raises:
            InputError: no frames, or of a shape that no rule allows.
        """
        if pixels:
            patched = qwen_patches.video_patches(frames, rule=self.rule)
        else:
            patched = qwen_patches.video_grid(frames.shape, rule=self.rule)
        item, stamps = "".join(MARKS), [""]
        if self.tower.tokens_per_second:
            step = float(np.diff(seconds).mean()) if len(seconds) > 1 else 1.0
            each = self.grid_seconds or self.rule.temporal * step
            items = (mrope.video_item(patched.grid, seconds=each),)
        else:
            items = tuple(mrope.video_frames(patched.grid))
            stamps = qwen_patches.frame_stamps(seconds, temporal=self.rule.temporal)
        return Shown(
            text="".join(stamp + item for stamp in stamps),
            tokens=tuple(math.prod(one.grid) // self.rule.merge**2 for one in items),
            seen=Seen(patched=patched, items=items),
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Videos:
    """The videos of a prompt, and how they were cut."""

    by: PatchVideos
    seen: tuple[Seen, ...]


def of_config(tower: QwenVisionConfig, config: DataConfig) -> PatchVideos:
    """A tower's videos within the pixels that a config allows a frame."""
    least, most = config.min_pixels, config.max_pixels
    rule = PatchRule(
        patch=tower.patch,
        temporal=tower.temporal,
        merge=tower.merge,
        min_pixels=least,
        max_pixels=most,
        video_min_pixels=least,
        video_max_pixels=most,
        window=tower.window,
        table_side=tower.table_side,
    )
    return PatchVideos(tower=tower, rule=rule, grid_seconds=config.grid_seconds)


def bucket_of(tower: QwenVisionConfig, config: DataConfig) -> Bucket:
    """The one shape of all prompts of a run."""
    longest, cuts = max(config.frames), config.jigsaw_clips if "jigsaw" in config.tasks else ()
    needed = max(clips * -(-longest // (clips * tower.temporal)) for clips in (1, *cuts))
    pixels = max(config.max_pixels, int(1.05 * config.min_pixels))  # as `video_size` has it
    token = tower.merge**2
    largest = pixels // tower.patch**2 // token * token
    return Bucket(
        length=config.prompt_tokens,
        rows=config.patch_rows or needed,
        slots=config.patch_slots or largest,
    )


def visual_rows(model: ModelConfig, config: DataConfig) -> tuple[int, ...]:
    """What a mesh has to divide: frames of a sample, or the rows that its patches lie in."""
    if config.turns is not None:
        return (config.turns.first, config.turns.each)
    if isinstance(model.tower, TimesformerConfig):
        return ()  # views are spread as far as they go
    if config.pack > 1:
        return (config.visual_bucket,)
    if isinstance(model.tower, QwenVisionConfig):
        return (bucket_of(model.tower, config).rows,)
    return config.frames


def shown_size(
    height: int, width: int, *, model: ModelConfig, config: DataConfig
) -> tuple[int, int]:
    """Height and width in which a model sees the frames of a video of this size.

    Raises:
        InputError: it sees none, or a side is over 200 times the other.
    """
    if isinstance(model.tower, QwenVisionConfig):
        rule = of_config(model.tower, config).rule
        return qwen_patches.video_size(1, height, width, rule=rule)
    size = model.frame_size
    assert size is not None, "of towers, only Qwen-VL's take frames of all sizes"
    return size
