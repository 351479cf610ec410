"""Small models of every map there is, and folders of weights for them, not written by our code."""

import dataclasses
import json

import jax
import numpy as np
from flax import nnx
from safetensors.numpy import load_file, save_file

from tests.models import towers
from tgvlm_jax import mesh
from tgvlm_jax.models.compressor import FrameCompressor
from tgvlm_jax.models.decoder import Decoder
from tgvlm_jax.models.eva_vit import EvaVit
from tgvlm_jax.models.qwen_vit import QwenVisionTower
from tgvlm_jax.models.timesformer import Timesformer
from tgvlm_jax.schema import (
    DecoderConfig,
    EvidenceConfig,
    MeshConfig,
    ModelConfig,
    QwenVisionConfig,
)
from tgvlm_jax.weights import eva, mapping, qformer, qwen_vision, text, timesformer

QWEN3 = DecoderConfig(
    vocab_size=64,
    width=16,
    layers=3,
    heads=4,
    kv_heads=2,
    head_size=8,
    hidden=32,
    qkv_bias=True,
    qk_norm=True,
    tie_embeddings=False,
)
PHI3 = dataclasses.replace(QWEN3, fused=True, qkv_bias=False, qk_norm=False, tie_embeddings=True)
QWEN3_VISION = QwenVisionConfig(
    kind="qwen3_vl",
    layers=3,
    width=16,
    heads=2,
    hidden=24,
    out_width=16,
    patch=4,
    table_side=4,
    deepstack=(0, 2),
)
QWEN2_5_VISION = dataclasses.replace(
    QWEN3_VISION, kind="qwen2_5_vl", table_side=0, deepstack=(), full_layers=(1,)
)
COMPRESSOR = towers.ENCODER.compressor


def decoder(spec):
    config = ModelConfig(decoder=spec, evidence=EvidenceConfig(bank_layer=1))
    return lambda *, rngs, dtype: Decoder(config, rngs=rngs)


# By name: how the module is made, and the map of its published names.
MODELS = {
    "qwen3": (decoder(QWEN3), text.tensors(QWEN3)),
    "phi3": (decoder(PHI3), text.tensors(PHI3)),
    "eva": (
        lambda **made: EvaVit(towers.EVA, **made),
        eva.tensors(towers.EVA, prefix=eva.D2VLM),
    ),
    "compressor": (
        lambda **made: FrameCompressor(COMPRESSOR, **made),
        qformer.compressor_tensors(COMPRESSOR),
    ),
    "timesformer": (
        lambda **made: Timesformer(towers.TIMESFORMER, **made),
        timesformer.tensors(towers.TIMESFORMER),
    ),
    "qwen2_5_vl vision": (
        lambda **made: QwenVisionTower(QWEN2_5_VISION, **made),
        qwen_vision.tensors(QWEN2_5_VISION),
    ),
    "qwen3_vl vision": (
        lambda **made: QwenVisionTower(QWEN3_VISION, **made),
        qwen_vision.tensors(QWEN3_VISION),
    ),
}
MESH = MeshConfig(fsdp=4, tp=2)


def like(make, dtype, *, on=None):
    """What a module's parameters look like, as it lays them out on a mesh."""
    with mesh.use(on):
        state = nnx.state(nnx.eval_shape(lambda: make(rngs=nnx.Rngs(0), dtype=towers.F32)))
    found = {}
    for path, leaf in nnx.to_flat_state(state):
        value = leaf.get_value()
        spec = getattr(value.sharding, "spec", None)
        sharding = None if on is None else jax.sharding.NamedSharding(on, spec)
        found[".".join(map(str, path))] = jax.ShapeDtypeStruct(
            value.shape, dtype, sharding=sharding
        )
    return found


def random_bits(tensors, shapes, dtype, *, seed=0):
    """Published tensors of any bits at all: NaNs, infinities and denormals too."""
    rng, dtype = np.random.default_rng(seed), np.dtype(dtype)
    found = {}
    for entry in tensors:
        shape = mapping.published_shape(entry, shapes)
        for name in mapping.numbered(entry, shapes):
            found[name] = rng.bytes(int(np.prod(shape)) * dtype.itemsize)
            found[name] = np.frombuffer(found[name], dtype).reshape(shape)
    return found


def shapes_of(params):
    return {path: tuple(leaf.shape) for path, leaf in params.items()}


def write(folder, published, *, files=1, config=None):
    """A folder as transformers writes it, in one file or several."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config or {"model_type": "test"}))
    if files == 1:
        save_file(published, folder / "model.safetensors", metadata={"format": "pt"})
        return folder
    names, weight_map = sorted(published), {}
    for number in range(files):
        file = f"model-{number + 1:05d}-of-{files:05d}.safetensors"
        part = {name: published[name] for name in names[number::files]}
        save_file(part, folder / file, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(part, file)
    index = {"metadata": {"total_size": 0}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


def read(folder):
    """All tensors of a folder, by the safetensors library."""
    found = {}
    for path in sorted(folder.glob("*.safetensors")):
        part = load_file(path)
        assert not found.keys() & part.keys()
        found |= part
    return found


def assert_same_bits(found, wanted):
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        assert found[name].dtype == value.dtype, name
        assert found[name].shape == value.shape, name
        assert found[name].tobytes() == value.tobytes(), name
