"""Whole published models: which config a folder describes, and the map of all of its names."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tgvlm_jax.schema import FrameEncoderConfig, ModelConfig, QwenVisionConfig, presets
from tgvlm_jax.types import InputError
from tgvlm_jax.weights import d2vlm, hf, qwen_vision, text
from tgvlm_jax.weights.mapping import Tensor
from tgvlm_jax.weights.published import Published

KNOWN = ("phi3", "llama", "qwen2", "qwen3", "qwen2_5_vl", "qwen3_vl", d2vlm.FAMILY)
"""Every `model_type` of a whole model that is read and written."""
_QWEN_VL = ("qwen2_5_vl", "qwen3_vl")
# Where the language model stands in a published file; the tower's place is its own map's.
_TEXT_PREFIX = {"qwen2_5_vl": "model.", "qwen3_vl": "model.language_model."}


def from_hf(config: Mapping[str, Any]) -> ModelConfig:
    """The model that a published `config.json` describes.

    Raises:
        InputError: an architecture that the library does not have.
    """
    family = config.get("model_type")
    if family not in KNOWN:
        raise InputError(f"model_type {family!r} is not known here; known: {', '.join(KNOWN)}")
    if family == d2vlm.FAMILY:
        return d2vlm.from_hf(config)
    if family not in _QWEN_VL:
        return presets.language_model(text.from_hf(config))
    inner = dict(config.get("text_config") or config)
    # Published Qwen2.5-VL files keep the text part at the top, and `tie_word_embeddings` with it.
    inner.setdefault("model_type", f"{family}_text")
    if "tie_word_embeddings" in config:
        inner["tie_word_embeddings"] = config["tie_word_embeddings"]
    return presets.qwen_vl(qwen_vision.from_hf(config), text.from_hf(inner))


def read(folder: Path) -> ModelConfig:
    """The model in a folder in Hugging Face format, by its `config.json`.

    Raises:
        InputError: no config there, a damaged one, or one of an architecture that is not known.
    """
    config, path = hf.read_config(folder), folder / hf.MODEL_FILES.config
    try:
        return from_hf(config)
    except InputError as error:
        text = str(error)
        raise InputError(text if text.startswith(str(path)) else f"{path}: {text}") from error
    except (TypeError, ValueError, ArithmeticError, LookupError, AttributeError) as error:
        raise InputError(f"{path}: damaged ({error}); fetch it again") from error


def tensors(config: ModelConfig) -> list[Tensor]:
    """Every published tensor of a model.

    Raises:
        InputError: a model of ours that has no published form.
    """
    if isinstance(config.tower, FrameEncoderConfig):
        return d2vlm.tensors(config)
    if config.evidence is not None or not isinstance(config.tower, QwenVisionConfig | None):
        raise InputError(
            "only language models, Qwen-VL models and D2VLM have a Hugging Face form; this one has "
            "evidence heads or a tower of its own"
        )
    if config.tower is None:
        return text.tensors(config.decoder, ours="decoder.")
    prefix = _TEXT_PREFIX[config.tower.kind]
    return [
        *qwen_vision.tensors(config.tower, ours="tower."),
        *text.tensors(config.decoder, prefix=prefix, ours="decoder."),
    ]


def ignored(found: Published, config: ModelConfig) -> Callable[[str], bool]:
    """Which names of a folder are no error, though the map of the model has them not.

    Constants; and an output head that is, bit for bit, the embeddings it is tied to once more.
    """
    head = "lm_head.weight"
    (table,) = (e.name for e in tensors(config) if e.parts[0].path == "decoder.embedding.table")
    again = config.decoder.tie_embeddings and _same(found, head, table)
    return lambda name: hf.is_buffer(name) or (again and name == head)


def _same(found: Published, one: str, other: str, *, rows: int = 4096) -> bool:
    """Whether two tensors are equal, some rows in memory at a time."""
    if not (one in found and other in found and found.is_float(one)):
        return False
    if (found.shape(one), found.dtype(one)) != (found.shape(other), found.dtype(other)):
        return False
    parts = (slice(start, start + rows) for start in range(0, found.shape(one)[0], rows))
    return all(found.read(one, p).tobytes() == found.read(other, p).tobytes() for p in parts)
