"""Published names of EVA ViT-g: in Hugging Face's BLIP-2, and in LAVIS, E.T.Chat and D2VLM."""

from collections.abc import Mapping
from typing import Any

from tgvlm_jax.schema import EvaConfig
from tgvlm_jax.types import InputError
from tgvlm_jax.weights import names
from tgvlm_jax.weights.mapping import Tensor, tensor

HF, LAVIS, D2VLM = "vision_model.", "", "model.vision_tower.vision_tower."
"""What stands before the names: in BLIP-2, in LAVIS' own file, and in E.T.Chat and D2VLM."""
_FAMILIES = ("blip-2", "instructblip", "blip_2_vision_model", "instructblip_vision_model")


def from_hf(config: Mapping[str, Any]) -> EvaConfig:
    """The tower of a BLIP-2 or InstructBLIP `config.json`, or of its `vision_config`.

    Raises:
        InputError: another architecture, or an activation that this tower has not.
    """
    family = config.get("model_type")
    if family not in _FAMILIES:
        raise InputError(f"model_type {family!r} has no EVA tower; known: {', '.join(_FAMILIES)}")
    config = config.get("vision_config", config)
    if config.get("hidden_act", "gelu") != "gelu":
        raise InputError(f"hidden_act {config['hidden_act']!r}: the EVA tower has 'gelu' only")
    return EvaConfig(
        image=config["image_size"],
        patch=config["patch_size"],
        width=config["hidden_size"],
        layers=config["num_hidden_layers"],
        heads=config["num_attention_heads"],
        hidden=config["intermediate_size"],
        norm_eps=config["layer_norm_eps"],
        key_bias=True,
        final_norm=True,
    )


def tensors(config: EvaConfig, *, prefix: str, ours: str = "") -> list[Tensor]:
    """Every published tensor of the tower.

    Args:
        config: with `key_bias` the names are Hugging Face's, without it those of LAVIS.
        prefix: `HF`, `LAVIS` or `D2VLM`. ours: what stands before our paths.
    """
    found = _hf() if config.key_bias else _lavis()
    if config.final_norm:
        found += names.norm("post_layernorm", "norm")
    return names.placed(found, prefix=prefix, ours=ours)


def _hf() -> list[Tensor]:
    layer = "encoder.layers.{i}."
    return [
        tensor("embeddings.class_embedding", "cls", "1 1 d -> d"),
        tensor("embeddings.position_embedding", "position", "1 p d -> p d"),
        *names.linear("embeddings.patch_embedding", "patches", weight=names.CONVOLUTION),
        *names.norm(f"{layer}layer_norm1", "blocks.attention_norm"),
        *names.norm(f"{layer}layer_norm2", "blocks.mlp_norm"),
        *names.fused(f"{layer}self_attn.qkv", "blocks.attention", bias=True),
        *names.linear(f"{layer}self_attn.projection", "blocks.attention.o", weight=names.JOIN),
        *names.linear(f"{layer}mlp.fc1", "blocks.mlp.up"),
        *names.linear(f"{layer}mlp.fc2", "blocks.mlp.down"),
    ]


def _lavis() -> list[Tensor]:
    layer = "blocks.{i}."
    return [
        tensor("cls_token", "cls", "1 1 d -> d"),
        tensor("pos_embed", "position", "1 p d -> p d"),
        *names.linear("patch_embed.proj", "patches", weight=names.CONVOLUTION),
        *names.norm(f"{layer}norm1", "blocks.attention_norm"),
        *names.norm(f"{layer}norm2", "blocks.mlp_norm"),
        *names.fused(f"{layer}attn.qkv", "blocks.attention", bias=False),
        tensor(f"{layer}attn.q_bias", "blocks.attention.q.bias", names.HEADS_BIAS),
        tensor(f"{layer}attn.v_bias", "blocks.attention.v.bias", names.HEADS_BIAS),
        *names.linear(f"{layer}attn.proj", "blocks.attention.o", weight=names.JOIN),
        *names.linear(f"{layer}mlp.fc1", "blocks.mlp.up"),
        *names.linear(f"{layer}mlp.fc2", "blocks.mlp.down"),
    ]
