"""The Qwen-VL towers: sizes, independence of frames and padding, memory options, a mesh."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from tgvlm_jax import mesh
from tgvlm_jax.data import qwen_patches, qwen_rows
from tgvlm_jax.models.qwen_vit import QwenVisionTower
from tgvlm_jax.models.vlm import at_slots, flat
from tgvlm_jax.schema import MeshConfig, QwenVisionConfig, presets
from tgvlm_jax.types import InputError
from tgvlm_jax.weights import qwen_vision

FLOAT32 = jnp.dtype("float32")
SMALL = {"layers": 3, "width": 16, "heads": 2, "hidden": 20, "out_width": 24, "patch": 2}
CONFIGS = {
    "qwen2_5_vl": QwenVisionConfig(kind="qwen2_5_vl", full_layers=(1,), **SMALL),
    "qwen3_vl": QwenVisionConfig(kind="qwen3_vl", table_side=3, deepstack=(0, 1), **SMALL),
}
RULE = qwen_patches.PatchRule(
    patch=2,
    min_pixels=0,
    max_pixels=10**9,
    video_min_pixels=0,
    video_max_pixels=10**9,
    window=8,
    table_side=3,
)


@pytest.fixture(params=CONFIGS)
def config(request):
    return CONFIGS[request.param]


def sample(seed, *grids):
    rng = np.random.default_rng(seed)
    return [
        qwen_patches.Patched(
            patches=rng.integers(0, 256, (math.prod(grid), 24), np.uint8), grid=grid
        )
        for grid in grids
    ]


def batch(samples, *, rows=2, slots=48):
    """Rows of all samples, and where their tokens come out (-1 after the last)."""
    laid = [qwen_rows.to_rows(s, rule=RULE, rows=rows, slots=slots) for s in samples]
    tokens = [np.pad(one.tokens, (0, 24 - len(one.tokens)), constant_values=-1) for one in laid]
    together = jax.tree.map(lambda *rows: np.stack(rows), *(one.rows for one in laid))
    return together, np.stack(tokens)


BATCH = batch(
    [
        sample(0, (2, 4, 6)),
        sample(1, (1, 6, 6), (1, 2, 4)),
        sample(2, (1, 4, 10)),
        sample(3, (1, 4, 4), (2, 4, 4)),
    ]
)


def state_of(config, **settings):
    """Parameters, every bias and norm away from its neutral value; made without any compilation."""
    tower = nnx.eval_shape(
        lambda: QwenVisionTower(config, rngs=nnx.Rngs(0), dtype=FLOAT32, **settings)
    )
    graph, state = nnx.split(tower)
    rng = np.random.default_rng(7)

    def values(path, like):
        near = 1.0 if "scale" in jax.tree_util.keystr(path) else 0.0
        return jnp.asarray(near + 0.2 * rng.normal(size=like.shape), FLOAT32)

    return graph, jax.tree_util.tree_map_with_path(values, state)


def run(graph, state, inputs):
    patches, tokens = jax.tree.map(jnp.asarray, inputs)
    out = nnx.merge(graph, state)(patches)
    levels = [at_slots(flat(level), tokens) for level in (out.tokens, *out.deepstack)]
    return jnp.stack(levels)


ENCODE = jax.jit(run, static_argnums=0)


def count(tree):
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(nnx.state(tree)))


def test_sizes_are_the_published_ones():
    def build(config):
        return nnx.eval_shape(lambda: QwenVisionTower(config, rngs=nnx.Rngs(0), dtype=FLOAT32))

    seven = build(presets.QWEN2_5_VL_7B_VISION)
    assert count(seven) == 676_550_144
    assert count(seven.merger) == 44_574_464
    three = build(presets.QWEN2_5_VL_3B_VISION)
    assert count(three) == 3_754_622_976 - qwen_text(151_936, 2048, 36, 16, 2, 11_008, tied=True)
    eight = build(presets.QWEN3_VL_8B_VISION)
    qk_norms, qkv_biases = 36 * 2 * 128, 36 * (32 + 2 * 8) * 128
    text = qwen_text(151_936, 4096, 36, 32, 8, 12_288, tied=False) + qk_norms - qkv_biases
    assert count(eight) == 8_767_123_696 - text


def qwen_text(vocab, width, layers, heads, kv_heads, hidden, *, tied):
    """Parameters of a Qwen2.5 decoder, head size 128."""
    qkv = (width + 1) * (heads + 2 * kv_heads) * 128
    layer = qkv + heads * 128 * width + 3 * width * hidden + 2 * width
    return layers * layer + width + vocab * width * (1 if tied else 2)


def test_published_config():
    vision = {
        "depth": 32,
        "hidden_size": 1280,
        "intermediate_size": 3420,
        "num_heads": 16,
        "in_chans": 3,
        "out_hidden_size": 3584,
        "patch_size": 14,
        "spatial_merge_size": 2,
        "spatial_patch_size": 14,
        "window_size": 112,
        "fullatt_block_indexes": [7, 15, 23, 31],
        "tokens_per_second": 2,
        "temporal_patch_size": 2,
    }
    got = qwen_vision.from_hf({"model_type": "qwen2_5_vl", "vision_config": vision})
    assert got == presets.QWEN2_5_VL_7B_VISION
    with pytest.raises(InputError, match="'llama'"):
        qwen_vision.from_hf({"model_type": "llama"})
    with pytest.raises(InputError, match="RGB"):
        qwen_vision.from_hf({"model_type": "qwen2_5_vl", "vision_config": vision | {"in_chans": 1}})
    with pytest.raises(InputError, match="within layers=32"):
        dataclasses.replace(got, full_layers=(32,))
    with pytest.raises(InputError, match="divide by 4 heads"):
        dataclasses.replace(got, heads=12)


def test_frames_and_padding_do_not_mix(config):
    graph, state = state_of(config)
    before = np.asarray(ENCODE(graph, state, BATCH))
    assert before.shape == (1 + len(config.deepstack), 4, 24, config.out_width)
    rows, tokens = BATCH
    assert not before[:, tokens < 0].any()
    programs = ENCODE._cache_size()
    # What stands in empty slots is never seen, nor is another frame.
    patches = rows.patches.copy()
    patches[rows.frames == -1] = 255
    patches[0, rows.frames[0] == 1] = 99
    changed = dataclasses.replace(rows, patches=patches)
    moved = np.abs(ENCODE(graph, state, (changed, tokens)) - before).max(axis=-1)
    assert not moved[:, 1:].any()
    assert not moved[:, 0, :6].any()
    assert (moved[:, 0, 6:12] > 1e-3).all()
    # All samples of a bucket are one program.
    assert ENCODE._cache_size() == programs


def test_rows_do_not_matter(config):
    """Two frames in one row or in two: the same tokens."""
    graph, state = state_of(config)
    samples = [sample(5, (2, 4, 6), (1, 6, 4))]
    apart = ENCODE(graph, state, batch(samples, rows=3, slots=24))
    together = ENCODE(graph, state, batch(samples, rows=1, slots=72))
    np.testing.assert_allclose(apart, together, atol=1e-5)


def test_pixels_are_normalised_on_the_device(config):
    graph, state = state_of(config)
    mean, std = (np.repeat(np.float32(v), 8) for v in (config.mean, config.std))
    rows, tokens = BATCH
    floats = dataclasses.replace(rows, patches=(rows.patches / np.float32(255) - mean) / std)
    got, wanted = ENCODE(graph, state, BATCH), ENCODE(graph, state, (floats, tokens))
    np.testing.assert_allclose(got, wanted, atol=1e-5)


def test_bfloat16_follows(config):
    graph, state = state_of(config, activations=jnp.dtype("bfloat16"))
    got = ENCODE(graph, state, BATCH)
    assert got.dtype == jnp.bfloat16
    exact = np.asarray(ENCODE(state_of(config)[0], state, BATCH))
    assert np.abs(got.astype(jnp.float32) - exact).max() < 0.05 * np.abs(exact).max()


def gradients(graph, state, inputs):
    def loss(state):
        out = run(graph, state, inputs)
        return jnp.sum(jnp.sin(out)), out

    (_, out), grads = jax.value_and_grad(loss, has_aux=True)(state)
    return out, grads


GRADIENTS = jax.jit(gradients, static_argnums=0)


def check_same(one, other):
    np.testing.assert_allclose(one[0], other[0], atol=1e-5)
    for a, b in zip(jax.tree.leaves(one[1]), jax.tree.leaves(other[1]), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4, rtol=1e-4)


def test_memory_options_change_nothing():
    config = CONFIGS["qwen2_5_vl"]
    graph, state = state_of(config)
    whole = GRADIENTS(graph, state, BATCH)
    thrifty, _ = state_of(dataclasses.replace(config, queries=10, remat=False))
    check_same(whole, GRADIENTS(thrifty, state, BATCH))


def test_a_mesh_changes_nothing(config):
    graph, state = state_of(config)
    alone = GRADIENTS(graph, state, BATCH)

    def init():
        return nnx.state(QwenVisionTower(config, rngs=nnx.Rngs(0), dtype=FLOAT32))

    with mesh.use(mesh.make(MeshConfig(fsdp=4, tp=2))):
        layout = jax.eval_shape(init)  # sharded over the mesh, with no array made
        laid_out = jax.tree.map(lambda x, like: jax.reshard(x, like.sharding.spec), state, layout)
        spread = GRADIENTS(graph, laid_out, BATCH)
    up = laid_out["blocks"]["up"]["weight"][...]
    assert up.sharding.shard_shape(up.shape)[1] == config.width // 4
    check_same(alone, spread)
