import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.models import towers
from tgvlm_jax import mesh
from tgvlm_jax.models.compressor import FrameCompressor
from tgvlm_jax.plan import cost, hlo
from tgvlm_jax.schema import MeshConfig
from tgvlm_jax.schema.presets import D2VLM_COMPRESSOR, D2VLM_FRAME_ENCODER


@pytest.fixture(scope="module")
def graph_and_params():
    graph, shapes = towers.graph_of(towers.encoder())
    return graph, towers.random_params(shapes)


@pytest.fixture(scope="module")
def run(graph_and_params):
    graph, _ = graph_and_params
    return jax.jit(lambda params, frames, text: towers.build(graph, params)(frames, text))


def test_published_sizes():
    _, shapes = towers.graph_of(lambda **made: FrameCompressor(D2VLM_COMPRESSOR, **made))
    groups = {}
    for name, shape in shapes.items():
        group = name.split(".")[0].removesuffix("_norm")
        groups[group] = groups.get(group, 0) + math.prod(shape)
    assert groups == {
        "qformer": 185_660_160,
        "queries": 24_576,
        "image": 2_816,
        "project": 1_082_752,
        "q": 1_986_688,
        "k": 1_986_688,
        "out": 4_331_264,
    }
    _, shapes = towers.graph_of(towers.encoder(D2VLM_FRAME_ENCODER))
    assert sum(map(math.prod, shapes.values())) == sum(groups.values()) + 985_894_528


def test_one_token_a_frame_from_that_frame_and_the_question(graph_and_params, run):
    _, params = graph_and_params
    frames, text = towers.frames(2, 5), towers.text(2)
    before = np.asarray(run(params, frames, text))  # waits: the frames are changed in place
    assert before.shape == (2, 5, 12)
    frames[0, 3, 5, 7] += 1
    moved = np.abs(run(params, frames, text) - before).max(axis=2)
    assert moved[0, 3] > 1e-4
    moved[0, 3] = 0
    np.testing.assert_array_equal(moved, 0)
    text.ids[0, 0] = (text.ids[0, 0] + 1) % 31
    asked = np.abs(run(params, towers.frames(2, 5), text) - before).max(axis=2)
    assert asked[0].min() > 1e-5
    np.testing.assert_array_equal(asked[1], 0)


def test_chunks_change_nothing(graph_and_params, run):
    _, params = graph_and_params
    given = towers.frames(2, 5), towers.text(2)
    part = dataclasses.replace(towers.ENCODER.compressor, chunk=1)
    eva = dataclasses.replace(towers.EVA, chunk=3)
    whole, _ = towers.graph_of(
        towers.encoder(dataclasses.replace(towers.ENCODER, chunk=0, compressor=part, eva=eva))
    )

    @jax.jit
    def apart(params, frames, text):
        model = towers.build(whole, params)
        return model(frames, text), model.compressor(model.eva(frames)[:, :, 1:], text)

    for found in apart(params, *given):
        np.testing.assert_allclose(found, run(params, *given), atol=1e-5)


def test_bfloat16_stays_close_and_stays_bfloat16(graph_and_params, run):
    _, params = graph_and_params
    frames, text = towers.frames(2, 5), towers.text(2)
    wanted = run(params, frames, text)
    got = run(params, jnp.asarray(frames, jnp.bfloat16), text)
    assert got.dtype == jnp.bfloat16
    scale = np.abs(wanted).max()
    np.testing.assert_allclose(got.astype(jnp.float32), wanted, atol=0.1 * scale)


def test_sharded_equals_one_device(graph_and_params, run):
    _, params = graph_and_params
    frames, text = towers.frames(4, 3), towers.text(4)
    wanted = run(params, frames, text)
    chosen = mesh.make(MeshConfig(fsdp=4, tp=2))
    placed = towers.on_mesh(towers.encoder(), params, chosen)
    with mesh.use(chosen):
        got = run(placed, *mesh.put_batch((frames, text), chosen))
    np.testing.assert_allclose(got, wanted, atol=1e-5)


def test_sharded_gradients_equal_those_of_one_device():
    one = dataclasses.replace(towers.QFORMER, layers=1)  # seconds of compiling, not minutes
    config = dataclasses.replace(towers.ENCODER.compressor, qformer=one, chunk=0)

    def made(**given):
        return FrameCompressor(config, **given)

    graph, shapes = towers.graph_of(made)
    params, text = towers.random_params(shapes), towers.text(4)
    patches = np.random.default_rng(2).standard_normal((4, 3, 6, 16), np.float32)

    def loss(params, patches, text):
        return jnp.mean(towers.build(graph, params)(patches, text) ** 2)

    grad = jax.jit(jax.grad(loss))
    wanted = grad(params, patches, text)
    chosen = mesh.make(MeshConfig(fsdp=4, tp=2))
    placed = towers.on_mesh(made, params, chosen)
    with mesh.use(chosen):
        got = grad(placed, *mesh.put_batch((patches, text), chosen))
    for name, value in wanted.items():
        # What is added to every key goes out again in the softmax; a last layer's text is unread.
        silent = name.endswith(("k.bias", "k_norm.bias")) or "text_" in name
        assert np.abs(value).max() > 1e-6 or silent, name
        np.testing.assert_allclose(got[name], value, atol=1e-5, err_msg=name)


def test_a_frozen_tower_is_not_computed_again_for_gradients():
    """Chunks are; what they cost more than all frames at once is less than the tower itself."""
    one = dataclasses.replace(towers.QFORMER, layers=1)
    part = dataclasses.replace(towers.ENCODER.compressor, qformer=one)
    frames, text = jnp.asarray(towers.frames(1, 4)), towers.text(1)

    def flops(function, *given):
        compiled = jax.jit(function).lower(*given).compile()
        return cost.count(hlo.parse(compiled.as_text()), mesh={"fsdp": 1}).flops

    def costs(chunk):
        config = dataclasses.replace(towers.ENCODER, chunk=chunk, compressor=part)
        graph, shapes = towers.graph_of(towers.encoder(config))
        params = towers.random_params(shapes)
        frozen = {name: params.pop(name) for name in shapes if name.startswith("eva.")}

        def loss(learned, frozen, frames, text):
            return jnp.mean(towers.build(graph, {**frozen, **learned})(frames, text) ** 2)

        def tower(learned, frozen, frames):
            return towers.build(graph, {**frozen, **learned}).eva(frames)

        step = flops(jax.grad(loss), params, frozen, frames, text)
        return step, flops(tower, params, frozen, frames)

    at_once, tower = costs(0)
    in_parts, _ = costs(1)
    assert tower > 0
    assert in_parts < at_once + tower, (at_once, in_parts, tower)
