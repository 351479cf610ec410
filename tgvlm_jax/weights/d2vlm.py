"""Published names of D2VLM and E.T.Chat: Phi-3, EVA ViT-g, Q-Former and evidence heads."""

from collections.abc import Mapping
from typing import Any

from tgvlm_jax.schema import (
    CompressorConfig,
    EvidenceConfig,
    FrameEncoderConfig,
    ModelConfig,
)
from tgvlm_jax.types import InputError
from tgvlm_jax.weights import eva, names, qformer, text
from tgvlm_jax.weights.mapping import Tensor

FAMILY = "etchat_phi3"
UNUSED = ("model.qformer_bert.bert.embeddings.position_ids",)
"""Names in published files that hold no parameter."""


def from_hf(config: Mapping[str, Any]) -> ModelConfig:
    """The model that a published `config.json` describes; its tower is the one of all releases.

    The first two stages of E.T.Chat, which D2VLM's training starts from, ground nothing yet: they
    have no evidence heads, and a run that starts from them begins these anew.

    Raises:
        InputError: another architecture, or one of its variants that was never released.
    """
    if config.get("model_type") != FAMILY:
        raise InputError(f"model_type {config.get('model_type')!r} is not D2VLM's {FAMILY!r}")
    for key, wanted in (
        ("mm_projector", "qformer"),
        ("vision_tower", "eva_vit"),
        ("vision_output_token", "patch"),
    ):
        if config.get(key) != wanted:
            raise InputError(f"{key} {config.get(key)!r}: D2VLM here has {wanted!r} only")
    if config.get("use_matching") and not config.get("use_evidence"):
        raise InputError("use_matching: E.T.Chat's last stage has other heads; take its stage 2")
    # The released code never looks at `sliding_window` (D2VLM 1.4).
    decoder = text.from_hf({**config, "model_type": "phi3", "sliding_window": None})
    return ModelConfig(
        tower=FrameEncoderConfig(compressor=CompressorConfig(width=decoder.width)),
        decoder=decoder,
        evidence=EvidenceConfig(bank_layer=6) if config.get("use_evidence") else None,
        two_way_frames=bool(config.get("bi_attention", True)),
    )


def tensors(config: ModelConfig) -> list[Tensor]:
    """Every published tensor.

    Raises:
        InputError: a model with another tower.
    """
    tower = config.tower
    if not isinstance(tower, FrameEncoderConfig):
        raise InputError("D2VLM's tower is EVA ViT-g behind a Q-Former")
    heads, pairs = [], (("frm_head", "frame_head"), ("evi_head", "evidence_head"))
    for theirs, ours in pairs if config.evidence is not None else ():
        heads += names.norm(f"{theirs}.0", f"evidence.{ours}.norm")
        heads += names.linear(f"{theirs}.1", f"evidence.{ours}.down", bias="d -> d")
        heads += names.linear(f"{theirs}.3", f"evidence.{ours}.up", bias="d -> d")
    return [
        *text.tensors(config.decoder, ours="decoder."),
        *eva.tensors(tower.eva, prefix=eva.D2VLM, ours="tower.eva."),
        *qformer.compressor_tensors(tower.compressor, ours="tower.compressor."),
        *heads,
    ]
