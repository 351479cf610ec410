"""The `config.json` that transformers needs for a model of ours that never had one.

It is written in the form that transformers 5 writes for the Qwen-VL models and in the older flat
form, which transformers 4 reads too, for language models. `models.from_hf` reads either back.
"""

import dataclasses
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from tgvlm_jax.schema import DecoderConfig, ModelConfig, QwenVisionConfig, RopeConfig
from tgvlm_jax.types import InputError

_CLASSES = {
    "phi3": "Phi3ForCausalLM",
    "llama": "LlamaForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "qwen2_5_vl": "Qwen2_5_VLForConditionalGeneration",
    "qwen3_vl": "Qwen3VLForConditionalGeneration",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class TokenIds:
    """The tokens that a config names; None where it is not known, or where there is none.

    Attributes:
        bos, eos, pad: start, end and padding of a text.
        image, video: placeholders of visual tokens. vision_start, vision_end: what stands around.
    """

    bos: int | None = None
    eos: int | None = None
    pad: int | None = None
    image: int | None = None
    video: int | None = None
    vision_start: int | None = None
    vision_end: int | None = None


_PHI3 = {"bos": "<s>", "eos": "<|endoftext|>", "pad": "<|endoftext|>"}
_SMOLLM2 = {"bos": "<|im_start|>", "eos": "<|im_end|>", "pad": "<|im_end|>"}
_QWEN = {"bos": "<|endoftext|>", "eos": "<|im_end|>", "pad": "<|endoftext|>"}
_QWEN_VL = {
    **_QWEN,
    "image": "<|image_pad|>",
    "video": "<|video_pad|>",
    "vision_start": "<|vision_start|>",
    "vision_end": "<|vision_end|>",
}
_NAMES = {
    "phi3": _PHI3,
    "llama": _SMOLLM2,
    "qwen2": _QWEN,
    "qwen3": _QWEN,
    "qwen2_5_vl": _QWEN_VL,
    "qwen3_vl": _QWEN_VL,
}
# What these tokens are in the vocabularies that were published, by rows of the table.
_PUBLISHED = {
    32064: {"<s>": 1, "<|endoftext|>": 32000},
    49152: {"<|im_start|>": 1, "<|im_end|>": 2},
    151936: {
        "<|endoftext|>": 151643,
        "<|im_end|>": 151645,
        "<|vision_start|>": 151652,
        "<|vision_end|>": 151653,
        "<|image_pad|>": 151655,
        "<|video_pad|>": 151656,
    },
}
_PUBLISHED[152064] = _PUBLISHED[151936]


def family(config: ModelConfig) -> str:
    """The `model_type` that a model has in transformers.

    Raises:
        InputError: no architecture of transformers computes the same.
    """
    spec, tower = config.decoder, config.tower
    if config.evidence is not None or not isinstance(tower, QwenVisionConfig | None):
        raise InputError("evidence heads and a tower of our own have no Hugging Face form")
    kind = "qwen3" if spec.qk_norm else "qwen2" if spec.qkv_bias else "llama"
    kind = "phi3" if spec.fused else kind
    if tower is not None:
        kind = {"qwen2": "qwen2_5_vl", "qwen3": "qwen3_vl"}.get(kind, kind)
    plain = kind != "phi3"
    wrong = [
        ("model.tower", tower is not None and tower.kind != kind),
        ("model.decoder.qkv_bias", spec.qkv_bias and "qwen2" not in kind),
        ("model.decoder.qk_norm", spec.qk_norm and "qwen3" not in kind),
        ("model.decoder.sliding_window", plain and spec.sliding_window),
        ("model.decoder.rope.fraction", plain and spec.rope.fraction != 1.0),
        ("model.decoder.rope.long_factor", plain and spec.rope.long_factor),
        ("model.decoder.rope.sections", bool(spec.rope.sections) != (tower is not None)),
        ("model.decoder.rope.interleaved", spec.rope.interleaved != (kind == "qwen3_vl")),
        ("model.tower.norm_eps", tower is not None and tower.norm_eps != 1e-6),
        ("model.two_way_frames", config.two_way_frames and tower is not None),
    ]
    if found := [name for name, is_wrong in wrong if is_wrong]:
        raise InputError(
            f"{found[0]} is nothing that {kind}, the nearest Hugging Face architecture, has"
        )
    return kind


def token_ids(config: ModelConfig, *, tokenizer: Path | None = None) -> TokenIds:
    """The special tokens, from a tokenizer or from the vocabulary that was published.

    Args:
        config: the model. tokenizer: its folder, with a `tokenizer.json` if it is to count.

    Raises:
        InputError: the model sees, and what stands for images in its prompts is not known.
    """
    kind = family(config)
    known = _PUBLISHED.get(config.decoder.vocab_size, {}).get
    path = None if tokenizer is None else tokenizer / "tokenizer.json"
    if path is not None and path.is_file():
        try:
            known = Tokenizer.from_file(str(path)).token_to_id
        except Exception as error:  # the Rust library raises plain Exception
            raise InputError(f"{path}: no tokenizer of the tokenizers library ({error})") from error
    ids = TokenIds(**{name: known(token) for name, token in _NAMES[kind].items()})
    if config.tower is not None and None in (ids.image, ids.video, ids.vision_start):
        raise InputError(
            f"config.json names {_QWEN_VL['image']} and its like by their ids, which are not "
            "known for this vocabulary; give --tokenizer DIR"
        )
    return ids


def to_hf(config: ModelConfig, *, ids: TokenIds) -> dict[str, Any]:
    """The `config.json` of a model.

    Raises:
        InputError: what `family` raises.
    """
    kind = family(config)
    special = {f"{name}_token_id": getattr(ids, name) for name in ("bos", "eos", "pad")}
    head = {"architectures": [_CLASSES[kind]], "model_type": kind, "dtype": config.param_dtype}
    tied = {"tie_word_embeddings": config.decoder.tie_embeddings}
    text = {**_text(config.decoder, kind), **special, **tied}
    if config.tower is None:
        return {**head, **text, **_flat_rope(config.decoder.rope, kind)}
    assert isinstance(config.tower, QwenVisionConfig)
    names = ("image", "video", "vision_start", "vision_end")
    return {
        **head,
        "text_config": {"model_type": f"{kind}_text", **text, **_mrope(config.decoder.rope)},
        "vision_config": _vision(config.tower),
        **{f"{name}_token_id": getattr(ids, name) for name in names},
        **tied,
    }


def _text(spec: DecoderConfig, kind: str) -> dict[str, Any]:
    found = {
        "vocab_size": spec.vocab_size,
        "hidden_size": spec.width,
        "num_hidden_layers": spec.layers,
        "num_attention_heads": spec.heads,
        "num_key_value_heads": spec.kv_heads,
        "head_dim": spec.head_size,
        "intermediate_size": spec.hidden,
        "hidden_act": "silu",
        "rms_norm_eps": spec.norm_eps,
        "max_position_embeddings": round(spec.rope.original_length * spec.rope.length_ratio),
    }
    if kind in ("phi3", "llama", "qwen3", "qwen3_vl"):
        found["attention_bias"] = False
    if kind == "phi3":
        found["sliding_window"] = spec.sliding_window or None
        found["original_max_position_embeddings"] = spec.rope.original_length
    elif kind != "llama" and "vl" not in kind:
        found["use_sliding_window"] = False
    return found


def _flat_rope(rope: RopeConfig, kind: str) -> dict[str, Any]:
    found: dict[str, Any] = {"rope_theta": rope.theta}
    if kind == "phi3":
        found["partial_rotary_factor"] = rope.fraction
    if rope.long_factor:
        found["rope_scaling"] = {
            "type": "longrope",
            "short_factor": list(rope.short_factor),
            "long_factor": list(rope.long_factor),
        }
        if rope.attention_factor:
            found["rope_scaling"]["attention_factor"] = rope.attention_factor
    return found


def _mrope(rope: RopeConfig) -> dict[str, Any]:
    found = {
        "rope_type": "default",
        "rope_theta": rope.theta,
        "mrope_section": list(rope.sections),
    }
    if rope.interleaved:
        found["mrope_interleaved"] = True
    return {"rope_parameters": found}


def _vision(tower: QwenVisionConfig) -> dict[str, Any]:
    found = {
        "model_type": f"{tower.kind}_vision",
        "depth": tower.layers,
        "hidden_size": tower.width,
        "num_heads": tower.heads,
        "intermediate_size": tower.hidden,
        "out_hidden_size": tower.out_width,
        "in_channels": 3,
        "patch_size": tower.patch,
        "temporal_patch_size": tower.temporal,
        "spatial_merge_size": tower.merge,
    }
    if tower.theta != 10_000.0:
        found["rope_parameters"] = {"rope_type": "axial", "rope_theta": tower.theta}
    if tower.kind == "qwen2_5_vl":
        return found | {
            "hidden_act": "silu",
            "window_size": tower.window,
            "fullatt_block_indexes": list(tower.full_layers),
            "tokens_per_second": tower.tokens_per_second,
        }
    return found | {
        "hidden_act": "gelu_pytorch_tanh",
        "num_position_embeddings": tower.table_side**2,
        "deepstack_visual_indexes": list(tower.deepstack),
    }
