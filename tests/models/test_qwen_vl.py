"""Whole Qwen-VL models: cached, padded, sharded and adapted runs are the plain run."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import NamedSharding

from tests.models import tiny_qwen
from tests.models.tiny import random_params
from tgvlm_jax import mesh as mesh_lib
from tgvlm_jax.models import lora, parameters
from tgvlm_jax.models.layers import Linear
from tgvlm_jax.rollout.sampler import generate
from tgvlm_jax.schema import MeshConfig

STEPS = 4


@pytest.fixture(params=tiny_qwen.CONFIGS)
def kind(request):
    return request.param


def run(config, params, prompt):
    """Logits at every slot."""

    @jax.jit
    def run(params, prompt):
        model = parameters.blueprint(config).build(params)
        return model.decoder.logits(model.states(prompt).final)

    return run(params, prompt)


def test_greedy_tokens_through_the_cache_are_those_of_whole_passes(kind):
    config = tiny_qwen.CONFIGS[kind]
    params = random_params(config)
    prompt = tiny_qwen.prompt(kind)
    found = generate(
        params,
        prompt,
        blueprint=parameters.blueprint(config),
        max_tokens=STEPS,
        end_id=-1,
        pad_id=0,
    )
    tokens = np.asarray(found.tokens)
    whole = tiny_qwen.prompt(kind, after=tokens)
    logits = np.asarray(run(config, params, whole))
    for row, length in enumerate(prompt.length):
        predicted = logits[row, length - 1 : length - 1 + STEPS].argmax(axis=-1)
        np.testing.assert_array_equal(predicted, tokens[row])
    # The positions of what follows are those that the whole prompt has there.
    for row, (length, offset) in enumerate(zip(prompt.length, prompt.offset, strict=True)):
        wanted = length + offset + np.arange(STEPS)
        np.testing.assert_array_equal(
            whole.positions[row, :, length : length + STEPS], np.tile(wanted, (3, 1))
        )


def test_padding_changes_nothing(kind):
    config = tiny_qwen.CONFIGS[kind]
    params = random_params(config)
    tight, loose = tiny_qwen.prompt(kind, length=27), tiny_qwen.prompt(kind, length=40, pad_id=9)
    one, other = run(config, params, tight), run(config, params, loose)
    for row, length in enumerate(tight.length):
        np.testing.assert_allclose(one[row, :length], other[row, :length], atol=1e-5)


def test_a_mesh_changes_nothing(kind):
    config = tiny_qwen.CONFIGS[kind]
    params = random_params(config)
    prompt = tiny_qwen.prompt(kind)
    wanted = run(config, params, prompt)
    mesh = mesh_lib.make(MeshConfig(fsdp=4, tp=2))
    with mesh_lib.use(mesh):
        like = jax.eval_shape(lambda: parameters.init(config, jax.random.key(0)))
        placed = {
            name: jax.device_put(np.asarray(value), NamedSharding(mesh, like[name].sharding.spec))
            for name, value in params.items()
        }
        found = np.asarray(run(config, placed, mesh_lib.put_batch(prompt, mesh)))
    for row, length in enumerate(prompt.length):
        np.testing.assert_allclose(found[row, :length], wanted[row, :length], atol=2e-5)


def test_adapters_of_the_whole_model():
    """Fresh ones change nothing, merged ones compute the same, dropout is in training alone."""
    base = tiny_qwen.CONFIGS["qwen2_5_vl"]
    config = dataclasses.replace(base, lora=tiny_qwen.LORA)
    blueprint = parameters.blueprint(config)
    params = random_params(config)
    fresh = {n: jnp.zeros_like(x) if n.endswith("lora_b") else x for n, x in params.items()}
    prompt = jax.device_put(tiny_qwen.prompt("qwen2_5_vl"))
    assert lora.without(params).keys() == parameters.blueprint(base).shapes.keys()

    plain = run(base, lora.without(params), prompt)
    np.testing.assert_array_equal(run(config, fresh, prompt), plain)
    adapted = run(config, params, prompt)
    assert np.abs(adapted - plain).max() > 0.1
    model = jax.eval_shape(lambda: blueprint.build(params))
    merged = lora.merged(model, params)
    np.testing.assert_allclose(run(base, merged, prompt), adapted, atol=2e-5)

    @jax.jit
    def dropped(key):
        model = blueprint.build(params)
        lora.drop_out(model, key)
        return model.decoder.logits(model.states(prompt).final)

    one, again, other = (dropped(jax.random.key(seed)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, again)
    assert np.abs(one - other).max() > 1e-3
    assert np.abs(one - adapted).max() > 1e-3


def test_dropout_keeps_the_mean():
    layer = Linear(
        (8, 4), axes=(None, None), formula="bd,de->be", out=(None, None),
        rngs=nnx.Rngs(0), dtype=jnp.dtype("float32"),
    )  # fmt: skip
    lora.attach(
        nnx.List([layer]), (dataclasses.replace(tiny_qwen.LORA[0], pattern="0"),), rngs=nnx.Rngs(1)
    )
    layer.lora_b[...] = jnp.ones_like(layer.lora_b[...])
    x = jnp.ones((20_000, 8))
    whole = layer(x)[0]
    lora.drop_out(nnx.List([layer]), jax.random.key(0))
    some = layer(x)
    assert np.std(np.asarray(some), axis=0).min() > 0.1
    np.testing.assert_allclose(some.mean(axis=0), whole, atol=0.05)
