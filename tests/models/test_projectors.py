"""The projectors of views against their equations (ProfVLM 2.2), and views in the whole model."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

from tests.models import towers
from tgvlm_jax import mesh
from tgvlm_jax.models import parameters
from tgvlm_jax.models.projectors import projector
from tgvlm_jax.objectives import sft
from tgvlm_jax.schema import (
    Experiment,
    LoraConfig,
    MeshConfig,
    ModelConfig,
    ProjectorConfig,
    presets,
)
from tgvlm_jax.types import Batch, InputError, Prompt, Response, ViewFeatures, Views

SIZES = ProjectorConfig(inputs=24, hidden=40, width=16, heads=4)


def made(config=SIZES, *, seed=0):
    graph, shapes = towers.graph_of(lambda **a: projector(config, **a))
    params = towers.random_params(shapes, seed=seed)
    size = {"scale": np.full(1, 0.1168, np.float32), "shift": np.full(1, 0.0007, np.float32)}
    return graph, params | (size if config.kind == "gated" else {})


def views(config=SIZES, *, seed=0):
    """Five takes: all views there, one, the middle one missing, the last, and none."""
    x = np.random.default_rng(seed).standard_normal((5, 3, config.inputs), np.float32)
    there = [[1, 1, 1], [0, 1, 0], [1, 0, 1], [1, 1, 0], [0, 0, 0]]
    return x, np.asarray(there, bool)


def layer_norm(x, name, p):
    x = x - x.mean(-1, keepdims=True)
    x = x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-5)
    return x * p[f"{name}.scale"] + p[f"{name}.bias"]


def equations(p, x, heads):
    """z of one take whose views are all there, in float64, head by head."""
    p, x = {name: np.float64(value) for name, value in p.items()}, np.float64(x)
    y, size = layer_norm(x, "view_norm", p), x.shape[1] // heads
    out = np.zeros_like(x)
    for h in range(heads):
        q, k, v = (y @ p[f"{n}.weight"][:, h] + p[f"{n}.bias"][h] for n in "qkv")
        out += special.softmax(q @ k.T / np.sqrt(size), axis=1) @ v @ p["o.weight"][h]
    f = (out + p["o.bias"]).mean(0)
    f = f @ p["up.weight"] + p["up.bias"]
    h = layer_norm(f * 0.5 * (1 + special.erf(f / np.sqrt(2))), "hidden_norm", p)
    g = special.expit(h @ p["gate.weight"] + p["gate.bias"])
    o = layer_norm((h * g) @ p["down.weight"] + p["down.bias"], "norm", p)
    return (o - o.mean()) / (o.std(ddof=1) + 1e-6) * p["scale"] + p["shift"]


def test_gated_equals_its_equations_without_the_missing_views():
    graph, params = made()
    x, mask = views()
    got = np.asarray(jax.jit(lambda x, m: towers.build(graph, params)(x, m))(x, mask))
    wanted = [equations(params, row[there], SIZES.heads) for row, there in zip(x, mask, strict=True)
              if there.any()]  # fmt: skip
    np.testing.assert_allclose(got[:4, 0], wanted, atol=1e-6, rtol=0)
    assert np.isfinite(got).all()


def test_begins_with_the_statistics_of_text():
    config = dataclasses.replace(SIZES, width=256)
    model = projector(config, rngs=towers.nnx.Rngs(0), dtype=towers.F32)
    x, mask = views(config)
    z = np.asarray(model(jnp.asarray(x), jnp.asarray(mask)))[:4, 0]
    np.testing.assert_allclose(z.std(-1, ddof=1), 0.1168, rtol=1e-4)
    np.testing.assert_allclose(z.mean(-1), 0.0007, atol=1e-6)


@pytest.mark.parametrize("kind", ["gated", "linear", "bottleneck"])
def test_neither_order_nor_what_a_missing_view_holds_counts(kind):
    graph, params = made(dataclasses.replace(SIZES, kind=kind))
    model = jax.jit(lambda x, m: towers.build(graph, params)(x, m))
    x, mask = views()
    wanted = np.asarray(model(x, mask))
    assert wanted.shape == (5, 1, 16)
    order = np.asarray([2, 0, 1])
    np.testing.assert_allclose(model(x[:, order], mask[:, order]), wanted, atol=1e-6)
    x[~mask] = 1e3
    np.testing.assert_array_equal(model(x, mask), wanted)


def test_of_one_view_attention_is_the_value():
    graph, params = made()
    x, _ = views()
    one = np.ones((5, 1), bool)
    model = towers.build(graph, params)
    before = model(jnp.asarray(x[:, :1]), jnp.asarray(one))
    changed = towers.build(graph, params | {"q.weight": 7 * params["q.weight"]})
    np.testing.assert_array_equal(changed(jnp.asarray(x[:, :1]), jnp.asarray(one)), before)


def test_dropout_is_there_in_training_only():
    model = towers.build(*made())
    x, mask = map(jnp.asarray, views())
    calm = model(x, mask)
    model.dropout_key = towers.nnx.data(jax.random.key(0))
    first = model(x, mask)
    assert np.abs(first - calm)[:4].max() > 1e-3
    np.testing.assert_array_equal(model(x, mask), first)


def test_sharded_equals_one_device():
    graph, params = made()
    x, mask = views()
    x, mask = x[:4], mask[:4]
    run = jax.jit(lambda p, x, m: towers.build(graph, p)(x, m))
    wanted = run(params, x, mask)
    chosen = mesh.make(MeshConfig(fsdp=4, tp=2))
    placed = towers.on_mesh(lambda **a: projector(SIZES, **a), params, chosen)
    with mesh.use(chosen):
        got = run(placed, *mesh.put_batch((x, mask), chosen))
    np.testing.assert_allclose(got, wanted, atol=1e-6)


MODEL = dataclasses.replace(
    presets.PROFVLM_TINY, lora=(LoraConfig(pattern=r"blocks\.(q|v)$", rank=2, dropout=0.1),)
)


def batch(*, features=None):
    rng = np.random.default_rng(0)
    mask = np.asarray([[1, 1, 1], [1, 0, 1]], bool)
    clips = rng.integers(0, 256, (2, 3, 4, 32, 32, 3), np.uint8)
    visual = Views(clips=clips, mask=mask)
    visual = visual if features is None else ViewFeatures(vectors=features, mask=mask)
    index = np.full((2, 6), -1, np.int32)
    index[:, 3] = 0
    prompt = Prompt(
        visual=visual,
        tokens=rng.integers(0, 512, (2, 6)).astype(np.int32),
        visual_index=index,
        length=np.asarray([6, 5], np.int32),
    )
    response = Response(
        tokens=rng.integers(0, 512, (2, 4)).astype(np.int32),
        mask=np.ones((2, 4), bool),
        evidence=np.full((2, 4), -1, np.int32),
        spans=np.zeros((2, 2, 2), np.float32),
        evidence_mask=np.zeros((2, 2), bool),
    )
    return jax.device_put(Batch(prompt=prompt, response=response))


def test_the_whole_model_sees_views_or_what_was_made_of_them():
    blueprint = parameters.blueprint(MODEL)
    params = parameters.init(MODEL, jax.random.key(0))

    @jax.jit
    def loss(params, one):
        model = blueprint.build(params)
        return sft.sums(model, one, config=Experiment().objective)["language"]

    see = jax.jit(lambda params, one: blueprint.build(params).see(one.prompt).visual)
    one = batch()
    seen = see(params, one)
    assert seen.vectors.shape == (2, 3, 48)
    cached = batch(features=np.asarray(seen.vectors))
    np.testing.assert_allclose(loss(params, cached), loss(params, one), rtol=1e-6)
    pixels = one.prompt.visual.clips
    moved = dataclasses.replace(one.prompt.visual, clips=pixels.at[0, 1].add(9))
    other = dataclasses.replace(one, prompt=dataclasses.replace(one.prompt, visual=moved))
    assert abs(loss(params, other) - loss(params, one)) > 1e-6
    hidden = dataclasses.replace(moved, clips=pixels.at[1, 1].add(9))  # a view that is missing
    other = dataclasses.replace(one, prompt=dataclasses.replace(one.prompt, visual=hidden))
    np.testing.assert_allclose(loss(params, other), loss(params, one), rtol=1e-6)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"projector": None}, "belongs to a tower of kind 'timesformer'"),
        ({"projector": SIZES}, "projector.inputs=24"),
        ({"evidence": ModelConfig().evidence}, "'timesformer' does not make"),
        ({"tower": dataclasses.replace(presets.TIMESFORMER_TINY, labels=3)}, "tower.labels=3"),
    ],
)
def test_what_does_not_fit(change, says):
    with pytest.raises(InputError, match=says):
        dataclasses.replace(presets.PROFVLM_TINY, **change)
