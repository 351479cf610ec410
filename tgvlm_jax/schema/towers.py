"""Sizes of the vision towers."""

import dataclasses
from typing import Literal

from tgvlm_jax.schema.checks import divides
from tgvlm_jax.types import InputError

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TinyVitConfig:
    """The small vision transformer: one token a frame out of a few patches.

    Attributes:
        height, width_px: size of the input frame in pixels; both divide by `patch`.
        patch: side of a patch token in pixels; divides by `cell`.
        cell: side of the cells that a patch is first cut into, each through one small layer, so
            that fine texture (noise, blur) is seen before a patch is summed up.
        cell_width: features of a cell.
    """

    kind: Literal["tiny_vit"] = "tiny_vit"
    height: int = 48
    width_px: int = 64
    patch: int = 16
    cell: int = 4
    cell_width: int = 64
    width: int = 128
    layers: int = 1
    heads: int = 4
    hidden: int = 512
    norm_eps: float = 1e-6

    def __post_init__(self):
        divides("patch", self.patch, "height", self.height)
        divides("patch", self.patch, "width_px", self.width_px)
        divides("cell", self.cell, "patch", self.patch)
        divides("heads", self.heads, "width", self.width)


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaConfig:
    """Sizes; the defaults are the tower of D2VLM: a 40-layer model without its last layer.

    Attributes:
        image: side of the square frame in pixels.
        key_bias: whether keys have a bias. It changes nothing (the softmax takes it out again) and
            the original has none, but the tower inside Hugging Face's BLIP-2 stores one.
        final_norm: LayerNorm of the output, as in BLIP-2; D2VLM reads the last block as it is.
        chunk: frames of one sample computed at a time, 0 for all.
    """

    image: int = 224
    patch: int = 14
    width: int = 1408
    layers: int = 39
    heads: int = 16
    hidden: int = 6144
    norm_eps: float = 1e-6
    key_bias: bool = False
    final_norm: bool = False
    chunk: int = 32

    @property
    def patches(self) -> int:
        """Patch tokens of a frame."""
        return (self.image // self.patch) ** 2


@dataclasses.dataclass(frozen=True, kw_only=True)
class QformerConfig:
    """Sizes; the defaults are the Q-Former of InstructBLIP (Vicuna 7B) that D2VLM starts from.

    Attributes:
        vocab_size: of the text; 0 for a Q-Former that takes queries only.
        positions: longest text. image_width: of the tokens that the queries read.
        cross_every: layers 0, cross_every, 2 cross_every, ... read the image.
    """

    vocab_size: int = 30523
    positions: int = 512
    width: int = 768
    image_width: int = 1408
    layers: int = 12
    heads: int = 12
    hidden: int = 3072
    cross_every: int = 2
    norm_eps: float = 1e-12

    @property
    def crossings(self) -> int:
        """How many layers read the image."""
        return -(-self.layers // self.cross_every)


@dataclasses.dataclass(frozen=True, kw_only=True)
class CompressorConfig:
    """Sizes; the defaults are D2VLM with Phi-3-mini.

    Attributes:
        queries: learned tokens that read each frame. width: of the decoder, so of what comes out.
        norm_eps: of the norms outside the Q-Former.
        chunk: frames of one sample computed at a time, 0 for all.
    """

    qformer: QformerConfig = QformerConfig()
    queries: int = 32
    width: int = 3072
    norm_eps: float = 1e-5
    chunk: int = 32


@dataclasses.dataclass(frozen=True, kw_only=True)
class FrameEncoderConfig:
    """EVA ViT-g and the compressor behind it; `chunk` as in each, for the two together."""

    kind: Literal["eva_qformer"] = "eva_qformer"
    eva: EvaConfig = EvaConfig()
    compressor: CompressorConfig = CompressorConfig()
    chunk: int = 32

    @property
    def width(self) -> int:
        """Of the wider of its parts."""
        return self.eva.width

    @property
    def hidden(self) -> int:
        """Inside the MLPs of the wider of its parts."""
        return self.eva.hidden


@dataclasses.dataclass(frozen=True, kw_only=True)
class QwenVisionConfig:
    """A vision tower of the Qwen-VL family.

    Attributes:
        kind: "qwen2_5_vl" has RMSNorm and a gated SiLU, "qwen3_vl" LayerNorm, a tanh GELU and a
            bias on the patches.
        width, hidden: of the tower and inside its MLPs. out_width: the decoder's.
        patch, temporal: pixels and frames a patch spans. merge: patches a side of one token.
        full_layers: where a patch sees its whole frame and not only its window; empty for all.
        window: side of a window in pixels, 0 without windows.
        tokens_per_second: temporal positions a second of video takes (Qwen2.5-VL), 0 where every
            frame is a visual item of its own.
        table_side: side of the learned square table of positions, 0 for none.
        deepstack: layers whose output goes to the decoder too (Qwen3-VL).
        mean, std: of red, green and blue at full scale 1; uint8 patches are normalised with them.
        remat: computes a layer again for its gradient instead of keeping what is inside.
        queries: of one row, whose attention scores are in memory at a time (rounded down to what
            divides the row), 0 for all.
    """

    kind: Literal["qwen2_5_vl", "qwen3_vl"]
    layers: int
    width: int
    heads: int
    hidden: int
    out_width: int
    patch: int
    temporal: int = 2
    merge: int = 2
    full_layers: tuple[int, ...] = ()
    window: int = 0
    tokens_per_second: int = 0
    table_side: int = 0
    deepstack: tuple[int, ...] = ()
    theta: float = 10_000.0
    norm_eps: float = 1e-6
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)
    remat: bool = True
    queries: int = 512

    def __post_init__(self):
        if self.width % (4 * self.heads):
            raise InputError(f"width={self.width} must divide by 4 heads={4 * self.heads}")
        named = (*self.full_layers, *self.deepstack)
        if any(not 0 <= number < self.layers for number in named):
            raise InputError(f"full_layers and deepstack must be within layers={self.layers}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class TimesformerConfig:
    """Sizes; the defaults are TimeSformer-base.

    Attributes:
        image: side of the square frame in pixels. frames: of a clip.
        labels: classes of the classification head, 0 for no head.
        chunk: clips of one sample computed at a time, 0 for all.
        mean, std: of every channel at full scale 1, those of the Kinetics checkpoints.
    """

    kind: Literal["timesformer"] = "timesformer"
    image: int = 224
    patch: int = 16
    frames: int = 8
    width: int = 768
    layers: int = 12
    heads: int = 12
    hidden: int = 3072
    norm_eps: float = 1e-6
    labels: int = 0
    chunk: int = 8
    mean: float = 0.45
    std: float = 0.225

    @property
    def patches(self) -> int:
        """Patch tokens of a frame."""
        return (self.image // self.patch) ** 2


@dataclasses.dataclass(frozen=True, kw_only=True)
class ProjectorConfig:
    """From the encoder's vector of each view to the decoder's one visual token (ProfVLM 2.2).

    Attributes:
        kind: "gated" is ProfVLM's AttentiveGatedProjector; "linear" and "bottleneck" are those of
            its prototype, here of the mean over views.
        inputs: width of the encoder. hidden: between the two maps ("linear" has none; 512 in the
            prototype's "bottleneck"). width: of the decoder.
        heads: of the attention among views. dropout: of its weights and of the hidden layer.
        scale, shift: what the learned statistics of the output begin with: those of SmolLM2's
            embeddings.
    """

    kind: Literal["gated", "linear", "bottleneck"] = "gated"
    inputs: int = 768
    hidden: int = 1024
    width: int = 576
    heads: int = 4
    dropout: float = 0.1
    norm_eps: float = 1e-5
    scale: float = 0.1168
    shift: float = 0.0007

    def __post_init__(self):
        divides("heads", self.heads, "inputs", self.inputs)
        if not 0.0 <= self.dropout < 1.0:
            raise InputError(f"dropout={self.dropout} must lie in [0, 1)")
