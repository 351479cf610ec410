"""The released sizes of every network, by name, each with a tiny twin that keeps its structure.

Published sizes are those of the released checkpoints, not the defaults of the classes that read
them. The tests hold each to its exact parameter count.
"""

import dataclasses

from tgvlm_jax.schema import (
    CLIP_MEAN,
    CLIP_STD,
    CompressorConfig,
    DecoderConfig,
    EvaConfig,
    FrameEncoderConfig,
    ModelConfig,
    ProjectorConfig,
    QformerConfig,
    QwenVisionConfig,
    RopeConfig,
    TimesformerConfig,
)

# Vision towers.

EVA_VIT_G = EvaConfig()
"""As published inside D2VLM and E.T.Chat: 985,894,528 parameters."""
QFORMER_INSTRUCT = QformerConfig()
"""As published inside D2VLM and E.T.Chat: 185,660,160 parameters."""
QFORMER_BLIP2 = QformerConfig(vocab_size=0)
"""As published inside BLIP-2: 105,137,664 parameters."""
D2VLM_COMPRESSOR = CompressorConfig()
"""As published inside D2VLM and E.T.Chat on Phi-3-mini: 195,074,944 parameters."""
D2VLM_FRAME_ENCODER = FrameEncoderConfig()
"""EVA ViT-g and the compressor as published: 1,180,969,472 parameters."""
TIMESFORMER_BASE_K600 = TimesformerConfig()
"""The encoder of facebook/timesformer-base-finetuned-k600: 121,258,752 parameters."""

QWEN2_5_VL_7B_VISION = QwenVisionConfig(
    kind="qwen2_5_vl",
    layers=32,
    width=1280,
    heads=16,
    hidden=3420,
    out_width=3584,
    patch=14,
    full_layers=(7, 15, 23, 31),
    window=112,
    tokens_per_second=2,
    mean=CLIP_MEAN,
    std=CLIP_STD,
)
QWEN2_5_VL_3B_VISION = dataclasses.replace(QWEN2_5_VL_7B_VISION, out_width=2048)
QWEN3_VL_8B_VISION = QwenVisionConfig(
    kind="qwen3_vl",
    layers=27,
    width=1152,
    heads=16,
    hidden=4304,
    out_width=4096,
    patch=16,
    table_side=48,
    deepstack=(8, 16, 24),
)

# Language models.

PHI3_MINI = DecoderConfig(
    vocab_size=32064,
    width=3072,
    layers=32,
    heads=32,
    kv_heads=32,
    head_size=96,
    hidden=8192,
    fused=True,
    sliding_window=2047,
    tie_embeddings=False,
)
"""Phi-3-mini-4k-instruct: 3,821,079,552 parameters."""
PHI3_5_MINI = dataclasses.replace(
    PHI3_MINI,
    sliding_window=262_144,
    rope=RopeConfig(
        # The published lists, each number as short as float32 allows.
        short_factor=(
            *(1.0, 1.02, 1.03, 1.03, 1.05, 1.05, 1.05, 1.05, 1.05, 1.0699999, 1.0999999),
            *(1.1099999, 1.1599998, 1.1599998, 1.1699998, 1.2899998, 1.3399998, 1.6799998),
            *(1.7899998, 1.8199998, 1.8499998, 1.8799998, 1.9099997, 1.9399997, 1.9899997),
            *(2.0199997, 2.0199997, 2.0199997, 2.0199997, 2.0199997, 2.0199997, 2.0299997),
            *(2.0299997, 2.0299997, 2.0299997, 2.0299997, 2.0299997, 2.0299997, 2.0299997),
            *(2.0299997, 2.0799997, 2.0899997, 2.1899996, 2.2199996, 2.5899994, 2.7299995),
            *(2.7499995, 2.8399994),
        ),
        long_factor=(
            *(1.08, 1.11, 1.14, 1.34, 1.5899999, 1.6, 1.62, 2.6200001, 3.23, 3.23, 4.79, 7.4),
            *(7.7000003, 9.09, 12.2, 17.67, 24.460001, 28.570002, 30.420002, 30.840002),
            *(32.590004, 32.930004, 42.320004, 44.960003, 50.340004, 50.450005, 57.550003),
            *(57.930004, 58.210003, 60.140003, 62.610004, 62.620003, 62.710003, 63.140003),
            *(63.140003, 63.770004, 63.930004, 63.960003, 63.97, 64.03, 64.07, 64.08, 64.12),
            *(64.41, 64.48, 64.51, 64.53, 64.84),
        ),
        length_ratio=32.0,
    ),
)
"""Phi-3.5-mini-instruct: Phi-3-mini for 131,072 positions by LongRoPE."""
SMOLLM2_135M = DecoderConfig(
    vocab_size=49152,
    width=576,
    layers=30,
    heads=9,
    kv_heads=3,
    head_size=64,
    hidden=1536,
    rope=RopeConfig(theta=100_000.0, original_length=8192),
)
"""SmolLM2-135M(-Instruct): 134,515,008 parameters."""
QWEN2_5_7B = DecoderConfig(
    vocab_size=152064,
    width=3584,
    layers=28,
    heads=28,
    kv_heads=4,
    head_size=128,
    hidden=18944,
    norm_eps=1e-6,
    rope=RopeConfig(theta=1e6, sections=(16, 24, 24), original_length=128_000),
    qkv_bias=True,
    tie_embeddings=False,
)
QWEN2_5_3B = dataclasses.replace(
    QWEN2_5_7B,
    vocab_size=151936,
    width=2048,
    layers=36,
    heads=16,
    kv_heads=2,
    hidden=11008,
    tie_embeddings=True,
)
QWEN3_8B = DecoderConfig(
    vocab_size=151936,
    width=4096,
    layers=36,
    heads=32,
    kv_heads=8,
    head_size=128,
    hidden=12288,
    norm_eps=1e-6,
    rope=RopeConfig(theta=5e6, sections=(24, 20, 20), interleaved=True, original_length=262_144),
    qk_norm=True,
    tie_embeddings=False,
)


def language_model(decoder: DecoderConfig) -> ModelConfig:
    """A language model without eyes."""
    return ModelConfig(tower=None, decoder=decoder, evidence=None, two_way_frames=False)


def views_model(
    tower: TimesformerConfig, projector: ProjectorConfig, decoder: DecoderConfig
) -> ModelConfig:
    """A model of several views of a take, one visual token in all."""
    return ModelConfig(
        tower=tower, projector=projector, decoder=decoder, evidence=None, two_way_frames=False
    )


PROFVLM_PROJECTOR = ProjectorConfig()
"""ProfVLM's AttentiveGatedProjector: 4,794,562 parameters."""
PROFVLM = views_model(TIMESFORMER_BASE_K600, PROFVLM_PROJECTOR, SMOLLM2_135M)


def qwen_vl(tower: QwenVisionConfig, decoder: DecoderConfig) -> ModelConfig:
    """A Qwen-VL model: visual tokens are as causal as text."""
    return ModelConfig(tower=tower, decoder=decoder, evidence=None, two_way_frames=False)


QWEN2_5_VL_7B = qwen_vl(QWEN2_5_VL_7B_VISION, QWEN2_5_7B)
"""Qwen2.5-VL-7B-Instruct: 8,292,166,656 parameters."""
QWEN2_5_VL_3B = qwen_vl(QWEN2_5_VL_3B_VISION, QWEN2_5_3B)
"""Qwen2.5-VL-3B-Instruct: 3,754,622,976 parameters."""
QWEN3_VL_8B = qwen_vl(QWEN3_VL_8B_VISION, QWEN3_8B)
"""Qwen3-VL-8B-Instruct: 8,767,123,696 parameters."""

# The tiny twins: every structural feature of the released sizes, at sizes of a test.

EVA_TINY = EvaConfig(image=28, patch=7, width=44, layers=3, heads=2, hidden=192)
"""82,856 parameters; 83,076 as BLIP-2 has it (`key_bias` and `final_norm`)."""
QFORMER_TINY = QformerConfig(
    vocab_size=512, positions=64, width=48, image_width=44, layers=4, heads=4, hidden=96
)
"""Cross-attention in layers 0 and 2: 159,648 parameters; 94,176 with `vocab_size=0`."""
COMPRESSOR_TINY = CompressorConfig(qformer=QFORMER_TINY, queries=8, width=64)
TIMESFORMER_TINY = TimesformerConfig(
    image=32, patch=8, frames=4, width=48, layers=2, heads=4, hidden=96
)
"""72,048 parameters."""

PHI3_TINY = dataclasses.replace(
    PHI3_MINI,
    vocab_size=512,
    width=64,
    layers=3,
    heads=4,
    kv_heads=4,
    head_size=16,
    hidden=128,
    sliding_window=7,
    rope=RopeConfig(original_length=64),
)
"""188,864 parameters."""
PHI3_TINY_PARTIAL = dataclasses.replace(
    PHI3_TINY,
    kv_heads=2,
    sliding_window=0,
    tie_embeddings=True,
    rope=RopeConfig(fraction=0.75, original_length=64),
)
"""Grouped queries, three quarters of a head turned and tied embeddings, as in Phi-4-mini."""
PHI3_5_TINY = dataclasses.replace(
    PHI3_TINY,
    sliding_window=0,
    rope=RopeConfig(
        short_factor=tuple(1 + 0.05 * i for i in range(8)),
        long_factor=tuple(1.5 + 0.5 * i for i in range(8)),
        original_length=16,
        length_ratio=4.0,
    ),
)
SMOLLM2_TINY = dataclasses.replace(
    SMOLLM2_135M,
    vocab_size=512,
    width=72,
    layers=3,
    head_size=8,
    hidden=192,
    rope=RopeConfig(theta=100_000.0, original_length=128),
)
"""203,256 parameters."""
PROFVLM_TINY = views_model(
    TIMESFORMER_TINY,
    ProjectorConfig(inputs=48, hidden=64, width=72),
    dataclasses.replace(SMOLLM2_TINY, layers=2),
)
QWEN2_5_VL_TINY = qwen_vl(
    dataclasses.replace(
        QWEN2_5_VL_7B_VISION,
        layers=4,
        width=32,
        heads=2,
        hidden=44,
        out_width=64,
        patch=4,
        full_layers=(1, 3),
        window=16,
    ),
    dataclasses.replace(
        QWEN2_5_7B,
        vocab_size=512,
        width=64,
        layers=3,
        heads=4,
        kv_heads=2,
        head_size=16,
        hidden=160,
        rope=RopeConfig(theta=1e6, sections=(2, 3, 3), original_length=512),
    ),
)
"""257,792 parameters."""
QWEN3_VL_TINY = qwen_vl(
    dataclasses.replace(
        QWEN3_VL_8B_VISION,
        layers=4,
        width=32,
        heads=2,
        hidden=44,
        out_width=64,
        patch=4,
        table_side=4,
        deepstack=(0, 2),
    ),
    dataclasses.replace(
        QWEN3_8B,
        vocab_size=512,
        width=64,
        layers=4,
        heads=4,
        kv_heads=2,
        head_size=16,
        hidden=160,
        rope=RopeConfig(theta=5e6, sections=(4, 2, 2), interleaved=True, original_length=512),
    ),
)
"""345,744 parameters."""
