"""Names and shapes of the published Qwen-VL towers; golden vectors cover the values."""

import math

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from tgvlm_jax.models.qwen_vit import QwenVisionTower
from tgvlm_jax.schema import presets
from tgvlm_jax.weights import mapping, qwen_vision

FLOAT32 = jnp.dtype("float32")


def shapes_of(config):
    tower = nnx.eval_shape(lambda: QwenVisionTower(config, rngs=nnx.Rngs(0), dtype=FLOAT32))
    leaves = nnx.to_flat_state(nnx.state(tower))
    return {".".join(map(str, path)): leaf.shape for path, leaf in leaves}


def published_shapes(config):
    """Shapes that `to_theirs` would write, from broadcast zeros that take no memory."""
    shapes = shapes_of(config)
    found = {}
    for entry in qwen_vision.tensors(config):
        one = {
            part.path: np.broadcast_to(np.int8(0), (1, *shapes[part.path][1:]))
            if "{i}" in entry.name
            else np.broadcast_to(np.int8(0), shapes[part.path])
            for part in entry.parts
        }
        (value,) = mapping.to_theirs([entry], one).values()
        found |= dict.fromkeys(mapping.numbered(entry, shapes), value.shape)
    return found


def test_published_names_of_qwen2_5_vl():
    found = published_shapes(presets.QWEN2_5_VL_7B_VISION)
    assert len(found) == 1 + 32 * 12 + 5
    assert sum(map(math.prod, found.values())) == 676_550_144
    for name, shape in {
        "visual.patch_embed.proj.weight": (1280, 3, 2, 14, 14),
        "visual.blocks.31.norm1.weight": (1280,),
        "visual.blocks.0.attn.qkv.weight": (3840, 1280),
        "visual.blocks.0.attn.qkv.bias": (3840,),
        "visual.blocks.7.attn.proj.weight": (1280, 1280),
        "visual.blocks.7.mlp.gate_proj.weight": (3420, 1280),
        "visual.blocks.7.mlp.down_proj.weight": (1280, 3420),
        "visual.merger.ln_q.weight": (1280,),
        "visual.merger.mlp.0.weight": (5120, 5120),
        "visual.merger.mlp.2.weight": (3584, 5120),
    }.items():
        assert found[name] == shape, name


def test_published_names_of_qwen3_vl():
    found = published_shapes(presets.QWEN3_VL_8B_VISION)
    assert len(found) == 3 + 27 * 12 + 4 * 6
    for name, shape in {
        "model.visual.patch_embed.proj.bias": (1152,),
        "model.visual.pos_embed.weight": (2304, 1152),
        "model.visual.blocks.26.norm2.bias": (1152,),
        "model.visual.blocks.0.mlp.linear_fc1.weight": (4304, 1152),
        "model.visual.merger.norm.weight": (1152,),
        "model.visual.deepstack_merger_list.2.norm.weight": (4608,),
        "model.visual.deepstack_merger_list.0.linear_fc2.weight": (4096, 4608),
    }.items():
        assert found[name] == shape, name


@pytest.mark.parametrize("config", [presets.QWEN2_5_VL_7B_VISION, presets.QWEN3_VL_8B_VISION])
def test_every_parameter_has_a_name(config):
    parts = [p.path for entry in qwen_vision.tensors(config, ours="tower.") for p in entry.parts]
    assert sorted(parts) == sorted(f"tower.{path}" for path in shapes_of(config))
