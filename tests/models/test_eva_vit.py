import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.models import towers
from tgvlm_jax import mesh
from tgvlm_jax.models.eva_vit import EvaVit
from tgvlm_jax.schema import MeshConfig
from tgvlm_jax.schema.presets import EVA_VIT_G
from tgvlm_jax.types import InputError
from tgvlm_jax.weights import eva


def make(**changes):
    config = dataclasses.replace(towers.EVA, **changes)
    return lambda **made: EvaVit(config, **made)


def test_published_sizes():
    _, shapes = towers.graph_of(lambda **made: EvaVit(EVA_VIT_G, **made))
    assert sum(map(math.prod, shapes.values())) == 985_894_528
    blip2 = dataclasses.replace(EVA_VIT_G, key_bias=True, final_norm=True)
    _, shapes = towers.graph_of(lambda **made: EvaVit(blip2, **made))
    assert sum(map(math.prod, shapes.values())) == 985_952_256


def test_frames_do_not_mix():
    graph, shapes = towers.graph_of(make())
    model = towers.build(graph, towers.random_params(shapes))
    run = jax.jit(lambda frames: model(frames))
    frames = towers.frames(2, 3)
    before = np.asarray(run(frames))  # waits: the frames are changed in place
    assert before.shape == (2, 3, 1 + 9, 16)
    frames[1, 2, 5, 7] += 1
    moved = np.abs(run(frames) - before).max(axis=(2, 3))
    assert moved[1, 2] > 1e-3
    moved[1, 2] = 0
    np.testing.assert_array_equal(moved, 0)


def test_a_key_bias_changes_nothing():
    graph, shapes = towers.graph_of(make(key_bias=True))
    params = towers.random_params(shapes)
    without = {k: v for k, v in params.items() if k != "blocks.attention.k.bias"}
    assert len(without) == len(params) - 1
    bare, _ = towers.graph_of(make())
    found = [
        jax.jit(towers.build(g, p))(towers.frames(1, 2))
        for g, p in ((graph, params), (bare, without))
    ]
    np.testing.assert_allclose(*found, atol=1e-5)


def test_another_frame_size_is_refused():
    graph, shapes = towers.graph_of(make())
    model = towers.build(graph, towers.random_params(shapes))
    with pytest.raises(InputError, match="12 x 12"):
        model(jnp.zeros((1, 1, 16, 16, 3)))


def test_another_architecture_is_refused():
    with pytest.raises(InputError, match="gelu_new"):
        eva.from_hf({"model_type": "blip-2", "vision_config": {"hidden_act": "gelu_new"}})
    with pytest.raises(InputError, match="model_type 'clip' has no EVA tower"):
        eva.from_hf({"model_type": "clip", "vision_config": {"hidden_act": "gelu"}})


def test_sharded_equals_one_device():
    made = make(chunk=2)
    graph, shapes = towers.graph_of(made)
    params, frames = towers.random_params(shapes), towers.frames(4, 3)
    run = jax.jit(lambda params, frames: towers.build(graph, params)(frames))
    wanted = run(params, frames)
    chosen = mesh.make(MeshConfig(fsdp=4, tp=2))
    placed = towers.on_mesh(made, params, chosen)
    with mesh.use(chosen):
        got = run(placed, mesh.put_batch(frames, chosen))
    np.testing.assert_allclose(got, wanted, atol=1e-5)
