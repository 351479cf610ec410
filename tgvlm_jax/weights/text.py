"""Published names of the text decoders: Phi-3 (fused), Llama / SmolLM2, Qwen2.5, Qwen3."""

from collections.abc import Mapping
from typing import Any

from tgvlm_jax.schema import DecoderConfig, RopeConfig
from tgvlm_jax.types import InputError
from tgvlm_jax.weights.mapping import Part, Tensor, tensor

_FAMILIES = ("phi3", "llama", "qwen2", "qwen2_5_vl", "qwen2_5_vl_text", "qwen3", "qwen3_vl_text")
# Settings by which these architectures would compute something else.
_ONLY = {
    "hidden_act": "silu",
    "attention_bias": False,
    "mlp_bias": False,
    "use_sliding_window": False,
}
_ROPES = ("default", "mrope", "longrope", "su")


def from_hf(config: Mapping[str, Any]) -> DecoderConfig:
    """The decoder that a `config.json` (or its text part) describes.

    Raises:
        InputError: an architecture that this decoder is not.
    """
    family = config.get("model_type")
    if family not in _FAMILIES:
        raise InputError(
            f"model_type {family!r} is no decoder of ours; known: {', '.join(_FAMILIES)}"
        )
    for key, wanted in _ONLY.items():
        if config.get(key) not in (None, wanted):
            raise InputError(f"{key} {config[key]!r}: this decoder has {wanted!r} only")
    heads, width = config["num_attention_heads"], config["hidden_size"]
    window = config.get("sliding_window") or 0
    return DecoderConfig(
        vocab_size=config["vocab_size"],
        width=width,
        layers=config["num_hidden_layers"],
        heads=heads,
        kv_heads=config["num_key_value_heads"],
        head_size=config.get("head_dim") or width // heads,
        hidden=config["intermediate_size"],
        norm_eps=config["rms_norm_eps"],
        rope=_rope(config),
        fused=family == "phi3",
        qkv_bias=family.startswith("qwen2"),
        qk_norm=family.startswith("qwen3"),
        # Qwen2.5 carries a window that it does not use.
        sliding_window=window if family == "phi3" else 0,
        tie_embeddings=config.get("tie_word_embeddings", False),
    )


def _rope(config: Mapping[str, Any]) -> RopeConfig:
    """Both the nested form of transformers 5 and the flat one of published files."""
    rope = dict(config.get("rope_scaling") or {}) | dict(config.get("rope_parameters") or {})
    fraction = rope.get("partial_rotary_factor", config.get("partial_rotary_factor")) or 1.0
    kind = rope.get("rope_type", rope.get("type")) or "default"
    # Phi-3 files of the first days call LongRoPE "yarn".
    longrope = kind in ("longrope", "su") or (kind == "yarn" and config["model_type"] == "phi3")
    if not longrope and kind not in _ROPES:
        raise InputError(f"rope_type {kind!r}: this decoder has {', '.join(_ROPES)} only")
    longest = config["max_position_embeddings"]
    original = rope.get("original_max_position_embeddings") or config.get(
        "original_max_position_embeddings", longest
    )
    return RopeConfig(
        theta=float(rope.get("rope_theta", config.get("rope_theta", 10_000.0))),
        fraction=float(fraction),
        sections=tuple(rope.get("mrope_section") or ()),
        interleaved=bool(rope.get("mrope_interleaved", False)),
        short_factor=tuple(rope["short_factor"]) if longrope else (),
        long_factor=tuple(rope["long_factor"]) if longrope else (),
        original_length=original,
        length_ratio=float(rope.get("factor") or longest / original),
        attention_factor=float(rope.get("attention_factor") or 0.0),
    )


def tensors(config: DecoderConfig, *, prefix: str = "model.", ours: str = "") -> list[Tensor]:
    """Every published tensor of a decoder.

    Args:
        config: the decoder.
        prefix: what stands before `embed_tokens` and `layers`. ours: before our paths.
    """
    layer = f"{prefix}layers.{{i}}."
    q, kv, o = "(h r k) d -> d h r k", "(h k) d -> d h k", "d (h r k) -> h r k d"
    block = f"{ours}blocks."
    found = [
        tensor(f"{prefix}embed_tokens.weight", f"{ours}embedding.table", "n d -> n d"),
        tensor(f"{layer}input_layernorm.weight", f"{block}attention_norm.scale", "d -> d"),
        tensor(f"{layer}post_attention_layernorm.weight", f"{block}mlp_norm.scale", "d -> d"),
        tensor(f"{layer}self_attn.o_proj.weight", f"{block}o.weight", o),
        tensor(f"{layer}mlp.down_proj.weight", f"{block}down.weight", "d f -> f d"),
        tensor(f"{prefix}norm.weight", f"{ours}norm.scale", "d -> d"),
    ]
    if config.fused:
        found += _fused(config, layer, block)
    else:
        names = [("self_attn.q", "q", q), ("self_attn.k", "k", kv), ("self_attn.v", "v", kv)]
        names += [("mlp.gate", "gate", "f d -> d f"), ("mlp.up", "up", "f d -> d f")]
        found += [
            tensor(f"{layer}{name}_proj.weight", f"{block}{own}.weight", pattern)
            for name, own, pattern in names
        ]
    if config.qkv_bias:
        for name, pattern in (
            ("q", "(h r k) -> h r k"),
            ("k", "(h k) -> h k"),
            ("v", "(h k) -> h k"),
        ):
            found.append(
                tensor(f"{layer}self_attn.{name}_proj.bias", f"{block}{name}.bias", pattern)
            )
    if config.qk_norm:
        for name in ("q_norm", "k_norm"):
            found.append(
                tensor(f"{layer}self_attn.{name}.weight", f"{block}{name}.scale", "k -> k")
            )
    if not config.tie_embeddings:
        found.append(tensor("lm_head.weight", f"{ours}untied_head.table", "n d -> n d"))
    return found


def _fused(config: DecoderConfig, layer: str, block: str) -> list[Tensor]:
    """Phi-3's two fused projections; ours keep what is fused as an axis `s` of its own."""
    r = config.heads // config.kv_heads
    qkv = [
        Part(path=f"{block}qkv.weight", pattern="(h s k) d -> d h s k", piece=("s", start, stop))
        for start, stop in ((0, r), (r, r + 1), (r + 1, r + 2))
    ]
    mlp = [
        Part(path=f"{block}gate_up.weight", pattern="(s f) d -> d s f", piece=("s", i, i + 1))
        for i in (0, 1)
    ]
    return [
        Tensor(name=f"{layer}self_attn.qkv_proj.weight", parts=tuple(qkv)),
        Tensor(name=f"{layer}mlp.gate_up_proj.weight", parts=tuple(mlp)),
    ]
