"""Published names of the Qwen2.5-VL and Qwen3-VL vision towers."""

from collections.abc import Mapping
from typing import Any

from tgvlm_jax.schema import CLIP_MEAN, CLIP_STD, QwenVisionConfig
from tgvlm_jax.types import InputError
from tgvlm_jax.weights.mapping import Tensor, tensor

_MATRIX = "e d -> d e"
# Published files keep the prefix of the release they were written for.
_PREFIX = {"qwen2_5_vl": "visual.", "qwen3_vl": "model.visual."}


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
        kind=family,
        layers=vision["depth"],
        width=vision["hidden_size"],
        heads=vision["num_heads"],
        hidden=vision["intermediate_size"],
        out_width=vision["out_hidden_size"],
        patch=vision["patch_size"],
        temporal=vision.get("temporal_patch_size", 2),
        merge=vision.get("spatial_merge_size", 2),
        full_layers=tuple(vision["fullatt_block_indexes"]) if qwen2 else (),
        # Where a file says nothing, what the class of transformers takes.
        window=vision.get("window_size", 112) if qwen2 else 0,
        tokens_per_second=vision.get("tokens_per_second", 4) if qwen2 else 0,
        table_side=0 if qwen2 else round(vision["num_position_embeddings"] ** 0.5),
        deepstack=() if qwen2 else tuple(vision["deepstack_visual_indexes"]),
        theta=float(rope.get("rope_theta", 10_000.0)),
        mean=CLIP_MEAN if qwen2 else (0.5, 0.5, 0.5),
        std=CLIP_STD if qwen2 else (0.5, 0.5, 0.5),
    )


def tensors(config: QwenVisionConfig, *, prefix: str | None = None, ours: str = "") -> list[Tensor]:
    """Every published tensor of a vision tower.

    Args:
        config: the tower.
        prefix: what stands before `patch_embed` and `blocks`; the published one by default.
        ours: what stands before our paths.
    """
    prefix = _PREFIX[config.kind] if prefix is None else prefix
    found = [
        tensor(
            f"{prefix}patch_embed.proj.weight", f"{ours}patches.weight", "d c t y x -> c t y x d"
        ),
        *_block(config, f"{prefix}blocks.{{i}}.", f"{ours}blocks."),
    ]
    if config.kind == "qwen2_5_vl":
        merger = f"{prefix}merger."
        return [
            *found,
            tensor(f"{merger}ln_q.weight", f"{ours}merger.norm.scale", "d -> d"),
            *_dense(f"{merger}mlp.0", f"{ours}merger.up"),
            *_dense(f"{merger}mlp.2", f"{ours}merger.down"),
        ]
    found.append(tensor(f"{prefix}patch_embed.proj.bias", f"{ours}patches.bias", "d -> d"))
    found.append(tensor(f"{prefix}pos_embed.weight", f"{ours}positions.weight", "n d -> n d"))
    mergers = [("merger.", "merger.")]
    if config.deepstack:
        mergers.append(("deepstack_merger_list.{i}.", "deepstack."))
    for theirs, path in mergers:
        found += _layer_norm(f"{prefix}{theirs}norm", f"{ours}{path}norm")
        found += _dense(f"{prefix}{theirs}linear_fc1", f"{ours}{path}up")
        found += _dense(f"{prefix}{theirs}linear_fc2", f"{ours}{path}down")
    return found


def _block(config: QwenVisionConfig, theirs: str, path: str) -> list[Tensor]:
    found = [
        tensor(f"{theirs}attn.qkv.weight", f"{path}qkv.weight", "(s h k) d -> d s h k"),
        tensor(f"{theirs}attn.qkv.bias", f"{path}qkv.bias", "(s h k) -> s h k"),
        tensor(f"{theirs}attn.proj.weight", f"{path}o.weight", "d (h k) -> h k d"),
        tensor(f"{theirs}attn.proj.bias", f"{path}o.bias", "d -> d"),
    ]
    norms = (("norm1", "attention_norm"), ("norm2", "mlp_norm"))
    if config.kind == "qwen2_5_vl":
        for name, ours in norms:
            found.append(tensor(f"{theirs}{name}.weight", f"{path}{ours}.scale", "d -> d"))
        for name in ("gate", "up", "down"):
            found += _dense(f"{theirs}mlp.{name}_proj", f"{path}{name}")
        return found
    for name, ours in norms:
        found += _layer_norm(f"{theirs}{name}", f"{path}{ours}")
    found += _dense(f"{theirs}mlp.linear_fc1", f"{path}up")
    return found + _dense(f"{theirs}mlp.linear_fc2", f"{path}down")


def _dense(name: str, path: str) -> list[Tensor]:
    return [
        tensor(f"{name}.weight", f"{path}.weight", _MATRIX),
        tensor(f"{name}.bias", f"{path}.bias", "d -> d"),
    ]


def _layer_norm(name: str, path: str) -> list[Tensor]:
    return [
        tensor(f"{name}.weight", f"{path}.scale", "d -> d"),
        tensor(f"{name}.bias", f"{path}.bias", "d -> d"),
    ]
