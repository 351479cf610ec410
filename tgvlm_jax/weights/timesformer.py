"""Published names of TimeSformer in Hugging Face files."""

from collections.abc import Mapping
from typing import Any

from tgvlm_jax.schema import TimesformerConfig
from tgvlm_jax.types import InputError
from tgvlm_jax.weights import names
from tgvlm_jax.weights.mapping import Tensor, tensor


def from_hf(config: Mapping[str, Any]) -> TimesformerConfig:
    """The tower, with its classification head, that a `config.json` describes.

    Raises:
        InputError: another architecture, attention or activation than the published one.
    """
    for key, wanted in (
        ("model_type", "timesformer"),
        ("attention_type", "divided_space_time"),
        ("hidden_act", "gelu"),
        ("qkv_bias", True),
    ):
        found = config.get(key, None if key == "model_type" else wanted)
        if found != wanted:
            raise InputError(f"{key} {found!r}: the TimeSformer here has {wanted!r} only")
    return TimesformerConfig(
        image=config["image_size"],
        patch=config["patch_size"],
        frames=config["num_frames"],
        width=config["hidden_size"],
        layers=config["num_hidden_layers"],
        heads=config["num_attention_heads"],
        hidden=config["intermediate_size"],
        norm_eps=config["layer_norm_eps"],
        labels=len(config.get("id2label", ())),
    )


def tensors(
    config: TimesformerConfig, *, prefix: str = "timesformer.", ours: str = ""
) -> list[Tensor]:
    """Every published tensor; `prefix` is that of the classification checkpoints."""
    layer = "encoder.layer.{i}."
    found = [
        tensor("embeddings.cls_token", "cls", "1 1 d -> d"),
        tensor("embeddings.position_embeddings", "position", "1 p d -> p d"),
        tensor("embeddings.time_embeddings", "time", "1 f d -> f d"),
        *names.linear(
            "embeddings.patch_embeddings.projection", "patches", weight=names.CONVOLUTION
        ),
        *names.norm(f"{layer}temporal_layernorm", "blocks.time_norm"),
        *names.fused(f"{layer}temporal_attention.attention.qkv", "blocks.time", bias=True),
        *names.linear(
            f"{layer}temporal_attention.output.dense", "blocks.time.o", weight=names.JOIN
        ),
        *names.linear(f"{layer}temporal_dense", "blocks.time_dense"),
        *names.norm(f"{layer}layernorm_before", "blocks.space_norm"),
        *names.fused(f"{layer}attention.attention.qkv", "blocks.space", bias=True),
        *names.linear(f"{layer}attention.output.dense", "blocks.space.o", weight=names.JOIN),
        *names.norm(f"{layer}layernorm_after", "blocks.mlp_norm"),
        *names.linear(f"{layer}intermediate.dense", "blocks.mlp.up"),
        *names.linear(f"{layer}output.dense", "blocks.mlp.down"),
        *names.norm("layernorm", "norm"),
    ]
    found = names.placed(found, prefix=prefix, ours=ours)
    head = names.linear("classifier", "classifier") if config.labels else []
    return [*found, *names.placed(head, prefix="", ours=ours)]
