import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.models import towers
from tgvlm_jax import mesh
from tgvlm_jax.models.timesformer import Timesformer
from tgvlm_jax.schema import MeshConfig
from tgvlm_jax.schema.presets import TIMESFORMER_BASE_K600
from tgvlm_jax.types import InputError
from tgvlm_jax.weights.timesformer import from_hf

HF = {
    "image_size": 12, "patch_size": 4, "num_frames": 4, "hidden_size": 16, "num_hidden_layers": 2,
    "num_attention_heads": 2, "intermediate_size": 24, "layer_norm_eps": 1e-6,
    "model_type": "timesformer",
}  # fmt: skip


@pytest.fixture(scope="module")
def tower():
    graph, shapes = towers.graph_of(towers.timesformer())
    params = towers.random_params(shapes)
    return jax.jit(lambda clips: towers.build(graph, params)(clips))


def test_published_size():
    _, shapes = towers.graph_of(lambda **made: Timesformer(TIMESFORMER_BASE_K600, **made))
    assert sum(map(math.prod, shapes.values())) == 121_258_752


def test_clips_do_not_mix_but_their_frames_do(tower):
    clips = towers.frames(2, 3, 4)
    before = np.asarray(tower(clips))  # waits: the clips are changed in place
    assert before.shape == (2, 3, 1 + 9 * 4, 16)
    clips[1, 2, 3, 5, 7] += 1
    moved = np.abs(tower(clips) - before).max(axis=3)
    assert moved[1, 2].min() > 1e-7
    moved[1, 2] = 0
    np.testing.assert_array_equal(moved, 0)


def test_the_order_of_frames_matters(tower):
    clips = towers.frames(2, 3, 4)
    assert np.abs(tower(clips[:, :, ::-1].copy()) - tower(clips))[:, :, 0].max() > 1e-3


def test_time_runs_fastest_among_the_patches():
    """Without layers a token is its patch at its time."""
    graph, shapes = towers.graph_of(towers.timesformer())
    model = towers.build(graph, towers.random_params(shapes))
    model.blocks = jax.tree.map(lambda leaf: leaf[:0], model.blocks)
    clips = towers.frames(1, 1, 4)
    before = np.asarray(model(jnp.asarray(clips)))
    clips[0, 0, 2, 5, 6] += 1  # row 1, column 1 of the patches
    changed = np.flatnonzero(np.abs(model(jnp.asarray(clips)) - before).max(axis=(0, 1, 3)))
    assert changed.tolist() == [1 + (1 * 3 + 1) * 4 + 2]


def test_longer_clips_repeat_the_learned_times():
    """Eight equal frames say what four do: each learned time stands for two."""
    graph, shapes = towers.graph_of(towers.timesformer())
    model = towers.build(graph, towers.random_params(shapes))
    clips = towers.frames(1, 1, 4)
    short = model(jnp.asarray(clips))
    double = model(jnp.asarray(np.repeat(clips, 2, axis=2)))
    np.testing.assert_allclose(double[0, 0, 1::2], short[0, 0, 1:], atol=1e-5)
    np.testing.assert_allclose(double[0, 0, 0], short[0, 0, 0], atol=1e-5)


def test_what_is_refused():
    with pytest.raises(InputError, match="joint_space_time"):
        from_hf(HF | {"attention_type": "joint_space_time"})
    with pytest.raises(InputError, match="model_type 'vivit'"):
        from_hf(HF | {"model_type": "vivit"})
    graph, shapes = towers.graph_of(towers.timesformer())
    model = towers.build(graph, towers.random_params(shapes))
    with pytest.raises(InputError, match="12 x 12"):
        model(jnp.zeros((1, 1, 4, 8, 8, 3)))


def test_sizes_come_from_a_config_file():
    wanted = dataclasses.replace(towers.TIMESFORMER, labels=3, chunk=8)
    assert from_hf(HF | {"id2label": {"0": "a", "1": "b", "2": "c"}}) == wanted


def test_sharded_equals_one_device():
    made = towers.timesformer()
    graph, shapes = towers.graph_of(made)
    params, clips = towers.random_params(shapes), towers.frames(4, 3, 4)
    run = jax.jit(lambda params, clips: towers.build(graph, params)(clips))
    wanted = run(params, clips)
    chosen = mesh.make(MeshConfig(fsdp=4, tp=2))
    placed = towers.on_mesh(made, params, chosen)
    with mesh.use(chosen):
        got = run(placed, mesh.put_batch(clips, chosen))
    np.testing.assert_allclose(got, wanted, atol=1e-5)
