"""One prompt of a Qwen-VL model: ids, images and videos -> the arrays that the model reads."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Int32

from tgvlm_jax.data import mrope, qwen_rows
from tgvlm_jax.data.qwen_patches import Patched, PatchRule
from tgvlm_jax.types import InputError, Prompt


@dataclasses.dataclass(frozen=True, kw_only=True)
class Seen:
    """An image or video of a prompt.

    Attributes:
        patched: its patches.
        items: where its placeholders stand: one for an image and for a Qwen2.5-VL video, one for
            every temporal patch of a Qwen3-VL video.
    """

    patched: Patched
    items: tuple[mrope.VisionItem, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Bucket:
    """The fixed shape of a prompt: token slots, and rows of patch slots for what is seen."""

    length: int
    rows: int
    slots: int


def prompt_row(
    tokens: Int32[np.ndarray, "t"],
    visual: Bool[np.ndarray, "t"],
    *,
    seen: Sequence[Seen],
    rule: PatchRule,
    bucket: Bucket,
    pad_id: int,
    tokens_per_second: float = 2.0,
    style: mrope.Style = "release",
) -> Prompt:
    """A prompt without its batch axis; `jax.tree.map(np.stack)` over rows makes a batch.

    Args:
        tokens: ids with one placeholder for every visual token. visual: where those are.
        seen: images and videos in the order of the prompt.
        rule: how they were cut. bucket: what they are padded to.
        tokens_per_second, style: of `mrope.positions`.

    Raises:
        InputError: placeholders that are not those of `seen`, or what does not fit the bucket.
    """
    count = len(tokens)
    if count > bucket.length:
        raise InputError(f"a prompt of {count} tokens does not fit {bucket.length}")
    placed = mrope.positions(
        visual,
        [item for one in seen for item in one.items],
        merge=rule.merge,
        tokens_per_second=tokens_per_second,
        style=style,
    )
    laid = qwen_rows.to_rows(
        [one.patched for one in seen], rule=rule, rows=bucket.rows, slots=bucket.slots
    )
    empty = bucket.length - count
    return Prompt(
        visual=laid.rows,
        tokens=np.pad(tokens, (0, empty), constant_values=pad_id),
        visual_index=np.pad(
            qwen_rows.token_index(visual, laid.tokens), (0, empty), constant_values=-1
        ),
        length=np.int32(count),
        positions=np.pad(placed.ids, ((0, 0), (0, empty))),
        offset=np.int32(placed.ids[:, -1].max() + 1 - count),
    )
