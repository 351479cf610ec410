"""Sizes of a decoder and of the model around it."""

import dataclasses
from typing import Literal

from tgvlm_jax.schema.checks import divides, positive
from tgvlm_jax.schema.towers import (
    FrameEncoderConfig,
    ProjectorConfig,
    QwenVisionConfig,
    TimesformerConfig,
    TinyVitConfig,
)
from tgvlm_jax.types import InputError


@dataclasses.dataclass(frozen=True, kw_only=True)
class RopeConfig:
    """Rotary positions.

    Attributes:
        fraction: share of a head that turns.
        sections: for M-RoPE, how many rates belong to time, row and column; empty for one axis.
        interleaved: M-RoPE of Qwen3-VL, where the axes take turns, instead of one after another.
        short_factor, long_factor: LongRoPE's divisors of the rates, up to `original_length`
            positions and beyond. length_ratio: longest over original length.
        attention_factor: LongRoPE's factor on the angles' cosines, 0 to derive it.
    """

    theta: float = 10_000.0
    fraction: float = 1.0
    sections: tuple[int, ...] = ()
    interleaved: bool = False
    short_factor: tuple[float, ...] = ()
    long_factor: tuple[float, ...] = ()
    original_length: int = 4096
    length_ratio: float = 1.0
    attention_factor: float = 0.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class DecoderConfig:
    """A decoder-only language model with RMSNorm, RoPE, SwiGLU and grouped queries.

    By these numbers it is Phi-3, Llama / SmolLM2, Qwen2.5 (biases) or Qwen3 (normed queries, keys).

    Attributes:
        fused: queries, keys and values are one projection, gate and up another (Phi-3); it
            computes the same, and decides what a LoRA adapter shares.
        qkv_bias: biases on queries, keys and values. qk_norm: RMSNorm of every query and key head.
        sliding_window: how many positions back a token sees, itself included; 0 sees all.
        tie_embeddings: the output head is the embedding table.
    """

    vocab_size: int = 512
    width: int = 128
    layers: int = 4
    heads: int = 4
    kv_heads: int = 2
    head_size: int = 32
    hidden: int = 384
    norm_eps: float = 1e-5
    rope: RopeConfig = RopeConfig()
    fused: bool = False
    qkv_bias: bool = False
    qk_norm: bool = False
    sliding_window: int = 0
    tie_embeddings: bool = True

    def __post_init__(self):
        positive(self, "vocab_size", "width", "layers", "hidden")
        positive(self, "heads", "kv_heads", "head_size")


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvidenceConfig:
    """Evidence tokens (D2VLM 1.5-1.7).

    Attributes:
        bank_layer: decoder layers after which a frame's state is kept for feedback (6 in D2VLM).
        threshold: share of the highest frame probability below which a frame is dropped.
    """

    bank_layer: int = 2
    threshold: float = 0.6


@dataclasses.dataclass(frozen=True, kw_only=True)
class LoraConfig:
    """Low-rank adapters on every linear map whose dotted path matches `pattern`.

    The map's result gains (dropped-out x A) B * alpha / rank; A is random, B starts at zero.

    Attributes:
        param_dtype: type of A and B; float32 also beside bfloat16 weights, as in PEFT.
    """

    pattern: str
    rank: int = 16
    alpha: float = 32.0
    dropout: float = 0.0
    param_dtype: Literal["float32", "bfloat16"] = "float32"

    def __post_init__(self):
        positive(self, "rank")
        if not 0.0 <= self.dropout < 1.0:
            raise InputError(f"dropout={self.dropout} must lie in [0, 1)")


@dataclasses.dataclass(frozen=True, kw_only=True)
class CriticConfig:
    """A value for every token, said by a model of its own (Video-MTR 2.6).

    Attributes:
        kind: "copy" is a whole copy of the policy's weights without its adapters; "adapters" shares
            the policy's weights and has adapters of its own. A head for the value is new in both.
        lora: of "adapters", the table of them.
    """

    kind: Literal["copy", "adapters"] = "copy"
    lora: tuple[LoraConfig, ...] = ()

    def __post_init__(self):
        if (self.kind == "adapters") != bool(self.lora):
            raise InputError("critic.lora: give a table for kind 'adapters', none for 'copy'")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """A video-language model: tower -> decoder, with evidence heads or without.

    Attributes:
        tower: None for a language model alone.
        projector: behind a TimeSformer, which sees several views of a take; None elsewhere.
        evidence: None for a model that does not ground by `<evi>`.
        two_way_frames: visual tokens see each other both ways (D2VLM 1.4); else all is causal.
        lora: adapters, the first pattern that matches a linear map counts.
        critic: for `PpoConfig`; its parameters are named `critic.` and then as the policy's.
        dtype: type of activations; parameters are kept in `param_dtype`. On a CPU bfloat16 gains
            little or nothing, whatever the parameters are in (benchmarks/README.md).
        remat: what a decoder layer keeps for its backward pass: "none" recomputes nothing,
            "full" all but its input, "dots" keeps the results of linear maps and of attention,
            "sums" of those maps alone whose results chips of `mesh.tp` sum, so that none is summed
            again, "offload" its input in the host's memory.
        unroll: layers unrolled per step of the layer scan; all of them is fastest for a small
            model on a CPU, 1 compiles fastest for a deep one.
    """

    tower: TinyVitConfig | FrameEncoderConfig | QwenVisionConfig | TimesformerConfig | None = (
        dataclasses.field(default_factory=TinyVitConfig)
    )
    projector: ProjectorConfig | None = None
    decoder: DecoderConfig = DecoderConfig()
    evidence: EvidenceConfig | None = EvidenceConfig()
    two_way_frames: bool = True
    lora: tuple[LoraConfig, ...] = ()
    critic: CriticConfig | None = None
    dtype: Literal["float32", "bfloat16"] = "float32"
    param_dtype: Literal["float32", "bfloat16"] = "float32"
    remat: Literal["none", "dots", "sums", "full", "offload"] = "none"
    unroll: int = 1

    @property
    def frame_size(self) -> tuple[int, int] | None:
        """Height and width of the frames that the tower takes; None where they may have any.

        Raises:
            InputError: there is no tower.
        """
        if self.tower is None:
            raise InputError("model.tower=None: a language model alone takes no frames")
        if isinstance(self.tower, FrameEncoderConfig):
            return self.tower.eva.image, self.tower.eva.image
        if isinstance(self.tower, TimesformerConfig):
            return self.tower.image, self.tower.image
        if isinstance(self.tower, TinyVitConfig):
            return self.tower.height, self.tower.width_px
        return None

    def __post_init__(self):
        decoder, evidence = self.decoder, self.evidence
        divides("decoder.kv_heads", decoder.kv_heads, "decoder.heads", decoder.heads)
        if isinstance(self.tower, QwenVisionConfig) and self.tower.out_width != decoder.width:
            raise InputError(
                f"tower.out_width={self.tower.out_width} must be decoder.width={decoder.width}"
            )
        if isinstance(self.tower, FrameEncoderConfig):
            out = self.tower.compressor.width
            if out != decoder.width:
                raise InputError(
                    f"tower.compressor.width={out} must be decoder.width={decoder.width}"
                )
        if evidence is not None and isinstance(self.tower, QwenVisionConfig | TimesformerConfig):
            raise InputError(
                f"evidence heads need one token a frame, which the tower {self.tower.kind!r} does "
                "not make; set evidence to None"
            )
        _check_projector(self)
        if evidence is not None and not 0 < evidence.bank_layer < decoder.layers:
            raise InputError(
                f"evidence.bank_layer={evidence.bank_layer} must lie between 0 and "
                f"decoder.layers={decoder.layers}"
            )


def _check_projector(config: ModelConfig) -> None:
    """Views go through a TimeSformer, a projector and then the decoder; nothing else has one."""
    tower, projector = config.tower, config.projector
    if (projector is not None) != isinstance(tower, TimesformerConfig):
        raise InputError(
            "model.projector belongs to a tower of kind 'timesformer', and to it alone"
        )
    if projector is None or not isinstance(tower, TimesformerConfig):
        return
    if (projector.inputs, projector.width) != (tower.width, config.decoder.width):
        raise InputError(
            f"projector.inputs={projector.inputs} and projector.width={projector.width} must be "
            f"tower.width={tower.width} and decoder.width={config.decoder.width}"
        )
    if tower.labels:
        raise InputError(f"tower.labels={tower.labels}: set 0, the projector reads no classes")
