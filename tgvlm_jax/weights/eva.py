"""Published names of EVA ViT-g: in Hugging Face's BLIP-2, and in LAVIS, E.T.Chat and D2VLM."""

from tgvlm_jax.models.eva_vit import EvaConfig
from tgvlm_jax.weights import names
from tgvlm_jax.weights.mapping import Tensor, tensor

HF, LAVIS, D2VLM = "vision_model.", "", "model.vision_tower.vision_tower."
"""What stands before the names: in BLIP-2, in LAVIS' own file, and in E.T.Chat and D2VLM."""


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
