"""Published names of the Q-Former and of D2VLM's frame compressor around it."""

from collections.abc import Mapping
from typing import Any

from tgvlm_jax.schema import CompressorConfig, QformerConfig
from tgvlm_jax.types import InputError
from tgvlm_jax.weights import names
from tgvlm_jax.weights.mapping import Tensor, tensor

HF, LAVIS, D2VLM = "qformer.", "Qformer.bert.", "model.qformer_bert.bert."
"""What stands before the names: in BLIP-2 and InstructBLIP, in LAVIS, in E.T.Chat and D2VLM."""
_FAMILIES = ("blip-2", "instructblip", "blip_2_qformer", "instructblip_qformer")


def from_hf(config: Mapping[str, Any]) -> QformerConfig:
    """The Q-Former of a BLIP-2 or InstructBLIP `config.json`, or of its `qformer_config`.

    Raises:
        InputError: another architecture, an activation that this Q-Former has not, or BLIP-2's
            retrieval model.
    """
    family = config.get("model_type")
    if family not in _FAMILIES:
        raise InputError(f"model_type {family!r} has no Q-Former; known: {', '.join(_FAMILIES)}")
    config = config.get("qformer_config", config)
    if config.get("hidden_act", "gelu") != "gelu":
        raise InputError(f"hidden_act {config['hidden_act']!r}: the Q-Former has 'gelu' only")
    if config.get("use_qformer_text_input"):
        raise InputError("use_qformer_text_input: BLIP-2's retrieval Q-Former is not supported")
    instruct = config["model_type"] == "instructblip_qformer"
    return QformerConfig(
        vocab_size=config["vocab_size"] if instruct else 0,
        positions=config["max_position_embeddings"],
        width=config["hidden_size"],
        image_width=config["encoder_hidden_size"],
        layers=config["num_hidden_layers"],
        heads=config["num_attention_heads"],
        hidden=config["intermediate_size"],
        cross_every=config["cross_attention_frequency"],
        norm_eps=config["layer_norm_eps"],
    )


def tensors(config: QformerConfig, *, prefix: str, ours: str = "") -> list[Tensor]:
    """Every published tensor of a Q-Former; the queries and the image's norm are not inside it.

    Args:
        config: the Q-Former.
        prefix: `HF` ("" where the file holds nothing else), `LAVIS` or `D2VLM`.
        ours: what stands before our paths.
    """
    hf = prefix in (HF, "")
    layer, inner = "encoder.layer.{i}.", "attention" if hf else "self"
    found = _attention(f"{layer}attention", inner, "layers.attention", "layers.attention_norm")
    found += _mlp(layer, "_query", "layers.query_mlp", "layers.query_norm")
    if config.vocab_size:
        found += _mlp(layer, "", "layers.text_mlp", "layers.text_norm")
        found += [
            tensor(f"embeddings.{name}_embeddings.weight", path, "n d -> n d")
            for name, path in (("word", "words"), ("position", "positions"))
        ]
    embeddings = "embeddings." if config.vocab_size or not hf else ""
    found += names.norm(f"{embeddings}{'layernorm' if hf else 'LayerNorm'}", "norm")
    found = names.placed(found, prefix=prefix, ours=ours)
    cross = _attention(f"{layer}crossattention", inner, "cross.attention", "cross.norm")
    return found + names.placed(cross, prefix=prefix, ours=ours, step=config.cross_every)


def compressor_tensors(config: CompressorConfig, *, ours: str = "") -> list[Tensor]:
    """Every tensor of the frame compressor in an E.T.Chat or D2VLM checkpoint."""
    found = [
        tensor("query", "queries", "1 q d -> q d"),
        *names.norm("ln", "image_norm"),
        *names.linear("proj", "project"),
    ]
    for name, norm, linear in (
        ("q", "q_norm", "q"),
        ("k", "k_norm", "k"),
        ("v", "out_norm", "out"),
    ):
        found += [*names.norm(f"{name}_proj.0", norm), *names.linear(f"{name}_proj.1", linear)]
    found = names.placed(found, prefix="model.qformer_", ours=ours)
    return found + tensors(config.qformer, prefix=D2VLM, ours=f"{ours}qformer.")


def lavis_tensors(config: CompressorConfig, *, ours: str = "") -> list[Tensor]:
    """What a LAVIS InstructBLIP file has, under its key `model`, for a compressor to be trained.

    Its further names (`Qformer.cls.*`, the language model's projection) have no use here.
    """
    found = [
        tensor("query_tokens", "queries", "1 q d -> q d"),
        *names.norm("ln_vision", "image_norm"),
    ]
    found = names.placed(found, prefix="", ours=ours)
    return found + tensors(config.qformer, prefix=LAVIS, ours=f"{ours}qformer.")


def _attention(name: str, inner: str, path: str, norm: str) -> list[Tensor]:
    found = [
        entry
        for theirs, one in (("query", "q"), ("key", "k"), ("value", "v"))
        for entry in names.heads(f"{name}.{inner}.{theirs}", f"{path}.{one}")
    ]
    found += names.linear(f"{name}.output.dense", f"{path}.o", weight=names.JOIN)
    return found + names.norm(f"{name}.output.LayerNorm", norm)


def _mlp(layer: str, kind: str, path: str, norm: str) -> list[Tensor]:
    return [
        *names.linear(f"{layer}intermediate{kind}.dense", f"{path}.up"),
        *names.linear(f"{layer}output{kind}.dense", f"{path}.down"),
        *names.norm(f"{layer}output{kind}.LayerNorm", norm),
    ]
