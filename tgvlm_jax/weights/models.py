"""Whole published models: which config a folder describes, and the map of all of its names."""

from collections.abc import Mapping
from typing import Any

from tgvlm_jax.models import presets
from tgvlm_jax.schema import ModelConfig, QwenVisionConfig
from tgvlm_jax.types import InputError
from tgvlm_jax.weights import qwen_vision, text
from tgvlm_jax.weights.mapping import Tensor

_QWEN_VL = ("qwen2_5_vl", "qwen3_vl")
# Where the language model stands in a published file; the tower's place is its own map's.
_TEXT_PREFIX = {"qwen2_5_vl": "model.", "qwen3_vl": "model.language_model."}


def from_hf(config: Mapping[str, Any]) -> ModelConfig:
    """The model that a published `config.json` describes.

    Raises:
        InputError: an architecture that the library does not have.
    """
    family = config.get("model_type")
    if family not in _QWEN_VL:
        if "vision_config" in config:
            raise InputError(f"model_type {family!r}: of models that see, {_QWEN_VL} are known")
        return presets.language_model(text.from_hf(config))
    inner = dict(config.get("text_config") or config)
    # Published Qwen2.5-VL files keep the text part at the top, and `tie_word_embeddings` with it.
    inner.setdefault("model_type", f"{family}_text")
    if "tie_word_embeddings" in config:
        inner["tie_word_embeddings"] = config["tie_word_embeddings"]
    return presets.qwen_vl(qwen_vision.from_hf(config), text.from_hf(inner))


def tensors(config: ModelConfig) -> list[Tensor]:
    """Every published tensor of a model.

    Raises:
        InputError: a model of ours that has no published form.
    """
    if config.evidence is not None or not isinstance(config.tower, QwenVisionConfig | None):
        raise InputError(
            "only language models and Qwen-VL models have a Hugging Face form; this one has "
            "evidence heads or a tower of its own"
        )
    if config.tower is None:
        return text.tensors(config.decoder, ours="decoder.")
    prefix = _TEXT_PREFIX[config.tower.kind]
    return [
        *qwen_vision.tensors(config.tower, ours="tower."),
        *text.tensors(config.decoder, prefix=prefix, ours="decoder."),
    ]
