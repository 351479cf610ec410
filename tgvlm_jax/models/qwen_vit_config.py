"""Sizes of the Qwen2.5-VL and Qwen3-VL vision towers, and how their published configs say them."""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

from tgvlm_jax.types import InputError


@dataclasses.dataclass(frozen=True, kw_only=True)
class QwenVisionConfig:
    """A vision tower of the Qwen-VL family.

    Attributes:
        family: "qwen2_5_vl" has RMSNorm and a gated SiLU, "qwen3_vl" LayerNorm, a tanh GELU and a
            bias on the patches.
        width, hidden: of the tower and inside its MLPs. out_width: the decoder's.
        patch, temporal: pixels and frames a patch spans. merge: patches a side of one token.
        full_layers: where a patch sees its whole frame and not only its window; empty for all.
        table_side: side of the learned square table of positions, 0 for none.
        deepstack: layers whose output goes to the decoder too (Qwen3-VL).
        mean, std: of red, green and blue at full scale 1; uint8 patches are normalised with them.
        dtype: of activations.
        remat: computes a layer again for its gradient instead of keeping what is inside.
        queries: of one row, whose attention scores are in memory at a time (rounded down to what
            divides the row), 0 for all.
    """

    family: Literal["qwen2_5_vl", "qwen3_vl"]
    layers: int
    width: int
    heads: int
    hidden: int
    out_width: int
    patch: int
    temporal: int = 2
    merge: int = 2
    full_layers: tuple[int, ...] = ()
    table_side: int = 0
    deepstack: tuple[int, ...] = ()
    theta: float = 10_000.0
    norm_eps: float = 1e-6
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)
    dtype: str = "float32"
    remat: bool = True
    queries: int = 512
    unroll: int = 1

    def __post_init__(self):
        if self.width % (4 * self.heads):
            raise InputError(f"width={self.width} must divide by 4 heads={4 * self.heads}")
        named = (*self.full_layers, *self.deepstack)
        if any(not 0 <= number < self.layers for number in named):
            raise InputError(f"full_layers and deepstack must be within layers={self.layers}")


CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)

QWEN2_5_VL_7B_VISION = QwenVisionConfig(
    family="qwen2_5_vl",
    layers=32,
    width=1280,
    heads=16,
    hidden=3420,
    out_width=3584,
    patch=14,
    full_layers=(7, 15, 23, 31),
    mean=CLIP_MEAN,
    std=CLIP_STD,
)
QWEN2_5_VL_3B_VISION = dataclasses.replace(QWEN2_5_VL_7B_VISION, out_width=2048)
QWEN3_VL_8B_VISION = QwenVisionConfig(
    family="qwen3_vl",
    layers=27,
    width=1152,
    heads=16,
    hidden=4304,
    out_width=4096,
    patch=16,
    table_side=48,
    deepstack=(8, 16, 24),
)


def from_hf(config: Mapping[str, Any]) -> QwenVisionConfig:
    """The vision tower that a published `config.json` describes.

    Raises:
        InputError: an architecture that this tower is not.
    """
    family, vision = config.get("model_type"), config.get("vision_config")
    if family not in ("qwen2_5_vl", "qwen3_vl") or vision is None:
        raise InputError(
            f"model_type {family!r} has no vision tower of ours (Qwen2.5-VL, Qwen3-VL)"
        )
    qwen2 = family == "qwen2_5_vl"
    if vision.get("in_channels", vision.get("in_chans", 3)) != 3:
        raise InputError("the vision tower reads RGB; in_channels must be 3")
    rope = vision.get("rope_parameters") or {}
    return QwenVisionConfig(
        family=family,
        layers=vision["depth"],
        width=vision["hidden_size"],
        heads=vision["num_heads"],
        hidden=vision["intermediate_size"],
        out_width=vision["out_hidden_size"],
        patch=vision["patch_size"],
        temporal=vision.get("temporal_patch_size", 2),
        merge=vision.get("spatial_merge_size", 2),
        full_layers=tuple(vision["fullatt_block_indexes"]) if qwen2 else (),
        table_side=0 if qwen2 else round(vision["num_position_embeddings"] ** 0.5),
        deepstack=() if qwen2 else tuple(vision["deepstack_visual_indexes"]),
        theta=float(rope.get("rope_theta", 10_000.0)),
        mean=CLIP_MEAN if qwen2 else (0.5, 0.5, 0.5),
        std=CLIP_STD if qwen2 else (0.5, 0.5, 0.5),
    )
