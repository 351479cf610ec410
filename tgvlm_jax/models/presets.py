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


def qwen_vl(tower: QwenVisionConfig, decoder: DecoderConfig) -> ModelConfig:
    """A Qwen-VL model: visual tokens are as causal as text."""
    return ModelConfig(tower=tower, decoder=decoder, evidence=None, two_way_frames=False)


QWEN2_5_VL_7B = qwen_vl(QWEN2_5_VL_7B_VISION, QWEN2_5_7B)
"""Qwen2.5-VL-7B-Instruct: 8,292,166,656 parameters."""
QWEN2_5_VL_3B = qwen_vl(QWEN2_5_VL_3B_VISION, QWEN2_5_3B)
"""Qwen2.5-VL-3B-Instruct: 3,754,622,976 parameters."""
QWEN3_VL_8B = qwen_vl(QWEN3_VL_8B_VISION, QWEN3_8B)
"""Qwen3-VL-8B-Instruct: 8,767,123,696 parameters."""
