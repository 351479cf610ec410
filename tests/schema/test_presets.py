"""The released sizes have exactly their parameters; every tiny twin has the same structure."""

import dataclasses
import functools
import math

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from tgvlm_jax.models import parameters
from tgvlm_jax.models.compressor import FrameCompressor, FrameEncoder
from tgvlm_jax.models.eva_vit import EvaVit
from tgvlm_jax.models.projectors import projector
from tgvlm_jax.models.qformer import Qformer
from tgvlm_jax.models.timesformer import Timesformer
from tgvlm_jax.ops import rope
from tgvlm_jax.schema import (
    CompressorConfig,
    DecoderConfig,
    EvaConfig,
    FrameEncoderConfig,
    ModelConfig,
    ProjectorConfig,
    QformerConfig,
    TimesformerConfig,
    presets,
)

MODULES = {
    EvaConfig: EvaVit,
    QformerConfig: Qformer,
    CompressorConfig: FrameCompressor,
    FrameEncoderConfig: FrameEncoder,
    TimesformerConfig: Timesformer,
    ProjectorConfig: projector,
}
EVA_BLIP2 = {"key_bias": True, "final_norm": True}
SIZES = {
    "Phi-3-mini": (presets.PHI3_MINI, 3_821_079_552),
    "Phi-3.5-mini": (presets.PHI3_5_MINI, 3_821_079_552),
    "SmolLM2-135M": (presets.SMOLLM2_135M, 134_515_008),
    "Qwen2.5-VL-7B": (presets.QWEN2_5_VL_7B, 8_292_166_656),
    "Qwen2.5-VL-7B text": (presets.QWEN2_5_7B, 7_070_619_136 + 544_997_376),
    "Qwen2.5-VL-3B": (presets.QWEN2_5_VL_3B, 3_754_622_976),
    "Qwen3-VL-8B": (presets.QWEN3_VL_8B, 8_767_123_696),
    "EVA ViT-g": (presets.EVA_VIT_G, 985_894_528),
    "EVA ViT-g in BLIP-2": (
        dataclasses.replace(presets.EVA_VIT_G, **EVA_BLIP2),
        985_952_256,
    ),
    "Q-Former of InstructBLIP": (presets.QFORMER_INSTRUCT, 185_660_160),
    "Q-Former of BLIP-2": (presets.QFORMER_BLIP2, 105_137_664),
    "compressor": (presets.D2VLM_COMPRESSOR, 195_074_944),
    "frame encoder": (presets.D2VLM_FRAME_ENCODER, 1_180_969_472),
    "TimeSformer": (presets.TIMESFORMER_BASE_K600, 121_258_752),
    "tiny Phi-3": (presets.PHI3_TINY, 188_864),
    "tiny Phi-3.5": (presets.PHI3_5_TINY, 188_864),
    "tiny SmolLM2": (presets.SMOLLM2_TINY, 203_256),
    "tiny Qwen2.5-VL": (presets.QWEN2_5_VL_TINY, 257_792),
    "tiny Qwen3-VL": (presets.QWEN3_VL_TINY, 345_744),
    "tiny EVA": (presets.EVA_TINY, 82_856),
    "tiny EVA in BLIP-2": (dataclasses.replace(presets.EVA_TINY, **EVA_BLIP2), 83_076),
    "tiny Q-Former": (presets.QFORMER_TINY, 159_648),
    "tiny Q-Former of BLIP-2": (dataclasses.replace(presets.QFORMER_TINY, vocab_size=0), 94_176),
    "ProfVLM's projector": (presets.PROFVLM_PROJECTOR, 4_794_562),
    "ProfVLM": (presets.PROFVLM, 121_258_752 + 4_794_562 + 134_515_008),
    "tiny TimeSformer": (presets.TIMESFORMER_TINY, 72_048),
}


@functools.cache
def shapes_of(config):
    """By dotted path, nothing allocated."""
    if isinstance(config, DecoderConfig):
        config = presets.language_model(config)
    if isinstance(config, ModelConfig):
        return parameters.blueprint(config).shapes
    make = MODULES[type(config)]
    module = nnx.eval_shape(lambda: make(config, rngs=nnx.Rngs(0), dtype=jnp.dtype("float32")))
    leaves = nnx.to_flat_state(nnx.state(module))
    return {".".join(map(str, path)): leaf.shape for path, leaf in leaves}


@pytest.mark.parametrize(("config", "count"), SIZES.values(), ids=SIZES)
def test_parameters_are_exactly_those_published(config, count):
    assert sum(map(math.prod, shapes_of(config).values())) == count


TWINS = {
    "Phi-3": (presets.PHI3_TINY, presets.PHI3_MINI),
    "Phi-3.5": (presets.PHI3_5_TINY, presets.PHI3_5_MINI),
    "SmolLM2": (presets.SMOLLM2_TINY, presets.SMOLLM2_135M),
    "Qwen2.5-VL": (presets.QWEN2_5_VL_TINY, presets.QWEN2_5_VL_7B),
    "Qwen3-VL": (presets.QWEN3_VL_TINY, presets.QWEN3_VL_8B),
    "EVA": (presets.EVA_TINY, presets.EVA_VIT_G),
    "Q-Former": (presets.QFORMER_TINY, presets.QFORMER_INSTRUCT),
    "compressor": (presets.COMPRESSOR_TINY, presets.D2VLM_COMPRESSOR),
    "ProfVLM": (presets.PROFVLM_TINY, presets.PROFVLM),
    "TimeSformer": (presets.TIMESFORMER_TINY, presets.TIMESFORMER_BASE_K600),
}


@pytest.mark.parametrize(("tiny", "released"), TWINS.values(), ids=TWINS)
def test_a_twin_has_the_same_parameters_by_name(tiny, released):
    small, large = shapes_of(tiny), shapes_of(released)
    assert small.keys() == large.keys()
    assert {name: len(shape) for name, shape in small.items()} == {
        name: len(shape) for name, shape in large.items()
    }


def decoders():
    for tiny, released in TWINS.values():
        if isinstance(released, ModelConfig):
            tiny, released = tiny.decoder, released.decoder
        if isinstance(released, DecoderConfig):
            yield tiny, released


def test_a_twin_keeps_what_is_no_parameter():
    """Windows that cut, groups of queries, axes of positions, long factors, blocks that differ."""
    for tiny, released in decoders():
        assert (tiny.heads > tiny.kv_heads) == (released.heads > released.kv_heads)
        assert bool(tiny.rope.sections) == bool(released.rope.sections)
        assert tiny.rope.interleaved == released.rope.interleaved
        assert bool(tiny.rope.long_factor) == bool(released.rope.long_factor)
        assert tiny.norm_eps == released.norm_eps
        assert tiny.rope.theta == released.rope.theta
    assert 0 < presets.PHI3_TINY.sliding_window < presets.PHI3_TINY.rope.original_length
    partial = presets.PHI3_TINY_PARTIAL
    assert partial.rope.fraction == 0.75
    assert partial.heads == 2 * partial.kv_heads
    assert partial.tie_embeddings
    for twin in (presets.QWEN2_5_VL_TINY, presets.QWEN3_VL_TINY):
        assert sum(twin.decoder.rope.sections) * 2 == twin.decoder.head_size
    assert len(set(presets.QWEN2_5_VL_TINY.decoder.rope.sections)) > 1
    tower = presets.QWEN2_5_VL_TINY.tower
    assert 0 < len(tower.full_layers) < tower.layers
    assert (tower.window % tower.patch, tower.tokens_per_second) == (0, 2)
    tower = presets.QWEN3_VL_TINY.tower
    assert 0 < len(tower.deepstack) < tower.layers
    assert (tower.window, tower.tokens_per_second) == (0, 0)
    assert 0 < presets.QFORMER_TINY.crossings < presets.QFORMER_TINY.layers


def test_longrope_of_phi3_5():
    """48 divisors a list, rising; cosines and sines gain 1.19024 at 32 times the length."""
    spec = presets.PHI3_5_MINI
    for factors in (spec.rope.short_factor, spec.rope.long_factor):
        assert len(factors) == spec.head_size // 2
        assert list(factors) == sorted(factors)
        assert all(str(np.float32(factor)) == str(factor) for factor in factors)
    turn = rope.rotation(jnp.zeros((1, 1), jnp.int32), spec.rope, head_size=spec.head_size)
    np.testing.assert_allclose(turn.cos, 1.19024, rtol=1e-5)
