"""The decoder against the textbook, written in NumPy for one sequence at a time."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.models.tiny import CONFIG, random_params
from tgvlm_jax.models import parameters
from tgvlm_jax.models.decoder import Earlier
from tgvlm_jax.ops.masks import causal_mask
from tgvlm_jax.schema import LoraConfig

SPEC = CONFIG.decoder
B, T = 2, 5
TAPS = tuple(range(SPEC.layers))


def norm(x, scale):
    return x / np.sqrt(np.mean(x**2, axis=-1, keepdims=True) + SPEC.norm_eps) * scale


def turn(x):
    """Rotary positions 0, 1, ... of [t ... k]."""
    half = x.shape[-1] // 2
    angles = np.arange(len(x))[:, None] * SPEC.rope.theta ** (-np.arange(half) / half)
    angles = angles.reshape(len(x), *(1,) * (x.ndim - 2), half)
    low, high = x[..., :half], x[..., half:]
    cos, sin = np.cos(angles), np.sin(angles)
    return np.concatenate([low * cos - high * sin, high * cos + low * sin], axis=-1)


def textbook(params, x, mask):
    """Residual streams before every layer and after the last, of x [t d]."""
    streams = [x]
    for i in range(SPEC.layers):
        w = {
            name.removeprefix("decoder.blocks."): np.asarray(value[i], np.float64)
            for name, value in params.items()
            if name.startswith("decoder.blocks.")
        }
        y = norm(x, w["attention_norm.scale"])
        q = turn(np.einsum("td,dhrk->thrk", y, w["q.weight"]))
        k = turn(np.einsum("td,dhk->thk", y, w["k.weight"]))
        v = np.einsum("td,dhk->thk", y, w["v.weight"])
        scores = np.einsum("thrk,shk->hrts", q, k) / np.sqrt(SPEC.head_size)
        weights = np.where(mask, np.exp(scores), 0)
        weights /= weights.sum(axis=-1, keepdims=True)
        x = x + np.einsum("hrts,shk,hrkd->td", weights, v, w["o.weight"])
        y = norm(x, w["mlp_norm.scale"])
        gate = y @ w["gate.weight"]
        x = x + (gate / (1 + np.exp(-gate)) * (y @ w["up.weight"])) @ w["down.weight"]
        streams.append(x)
    return streams


@pytest.fixture(scope="module")
def params():
    return random_params()


@pytest.fixture(scope="module")
def x():
    return jnp.asarray(np.random.default_rng(0).standard_normal((B, T, SPEC.width), np.float32))


@pytest.fixture(scope="module")
def mask():
    mask = np.tril(np.ones((T, T), bool)) | (np.arange(T) < 2)  # the first two see each other
    return jnp.broadcast_to(jnp.asarray(mask), (B, T, T))


POSITIONS = jnp.broadcast_to(jnp.arange(T, dtype=jnp.int32), (B, T))


def run(config, params, x, mask, positions=POSITIONS, earlier=()):
    model = parameters.blueprint(config).build(params)
    decoder = model.decoder
    turn = decoder.rotation(positions)
    return decoder(x, turn=turn, mask=mask, earlier=earlier, taps=TAPS)


def test_all_streams_and_logits_follow_the_textbook(params, x, mask):
    @jax.jit
    def both(params):
        model = parameters.blueprint(CONFIG).build(params)
        turn = model.decoder.rotation(POSITIONS)
        states = model.decoder(x, turn=turn, mask=mask, taps=TAPS)
        return states, model.decoder.logits(states.final)

    states, logits = both(params)
    for row in range(B):
        streams = textbook(params, np.asarray(x[row], np.float64), np.asarray(mask[row]))
        for tap in TAPS:
            np.testing.assert_allclose(states.taps[tap][row], streams[tap], atol=1e-5)
        np.testing.assert_allclose(states.final[row], streams[-1], atol=1e-5)
        table = np.asarray(params["decoder.embedding.table"], np.float64)
        wanted = norm(streams[-1], np.asarray(params["decoder.norm.scale"], np.float64)) @ table.T
        np.testing.assert_allclose(logits[row], wanted, atol=2e-5)


def test_two_passes_equal_one(params, x, mask):
    @jax.jit
    def split(params):
        first = run(CONFIG, params, x[:, :3], mask[:, :3, :3], POSITIONS[:, :3])
        # A slot of the first pass that is not filled, as right padding leaves it.
        kv = jax.tree.map(lambda z: jnp.concatenate([z, z[..., :1, :]], axis=3), first.kv)
        earlier = Earlier(kv=kv, mask=jnp.broadcast_to(jnp.arange(4) < 3, (B, 4)))
        return run(CONFIG, params, x[:, 3:], mask[:, 3:, 3:], POSITIONS[:, 3:], (earlier,))

    whole = jax.jit(lambda p: run(CONFIG, p, x, mask))(params)
    found = split(params)
    for tap in TAPS:
        np.testing.assert_allclose(found.taps[tap], whole.taps[tap][:, 3:], atol=1e-5)
    np.testing.assert_allclose(found.final, whole.final[:, 3:], atol=1e-5)


def test_packed_samples_equal_each_alone(params, x):
    """Two samples in one row, each with positions of its own."""
    segments = jnp.broadcast_to(jnp.asarray([0, 0, 1, 1, 1]), (B, T))
    positions = jnp.broadcast_to(jnp.asarray([0, 1, 0, 1, 2]), (B, T))
    valid = jnp.ones((B, T), bool)

    @jax.jit
    def packed(params):
        mask = causal_mask(positions, valid, segments=segments)
        return run(CONFIG, params, x, mask, positions).final

    @jax.jit
    def alone(params, x):
        order = jnp.broadcast_to(jnp.arange(x.shape[1], dtype=jnp.int32), x.shape[:2])
        return run(CONFIG, params, x, causal_mask(order, valid[:, : x.shape[1]]), order).final

    found = packed(params)
    np.testing.assert_allclose(found[:, :2], alone(params, x[:, :2]), atol=1e-5)
    np.testing.assert_allclose(found[:, 2:], alone(params, x[:, 2:]), atol=1e-5)


@pytest.mark.parametrize("split", [2, 3, 4])
def test_a_sliding_window_reaches_into_an_earlier_pass(params, x, split):
    spec = dataclasses.replace(SPEC, sliding_window=3)
    config, valid = dataclasses.replace(CONFIG, decoder=spec), jnp.ones((B, T), bool)
    mask = causal_mask(POSITIONS, valid, window=3).dense()

    @jax.jit
    def both(params):
        whole = run(config, params, x, mask).final
        start = run(config, params, x[:, :split], mask[:, :split, :split], POSITIONS[:, :split])
        earlier = Earlier(kv=start.kv, mask=valid[:, :split])
        rest = (x[:, split:], mask[:, split:, split:], POSITIONS[:, split:])
        return whole[:, split:], run(config, params, *rest, (earlier,)).final

    whole, found = both(params)
    np.testing.assert_allclose(found, whole, atol=1e-5)


def test_remat_and_unrolling_change_no_gradient(params, x, mask):
    def gradient(config):
        def loss(params):
            return jnp.sum(run(config, params, x, mask).final ** 2)

        return jax.jit(jax.grad(loss))(params)

    plain = gradient(CONFIG)
    for change in (
        {"remat": "dots"},
        {"remat": "sums"},
        {"remat": "offload"},
        {"remat": "full", "unroll": 3},
    ):
        other = gradient(dataclasses.replace(CONFIG, **change))
        for name, wanted in plain.items():
            np.testing.assert_allclose(other[name], wanted, rtol=1e-4, atol=1e-4, err_msg=name)


@pytest.mark.parametrize("change", [{}, {"fused": True}, {"qkv_bias": True, "qk_norm": True}])
@pytest.mark.parametrize("adapters", [False, True])
def test_unstacked_blocks_do_what_the_layers_do(change, adapters):
    table = (LoraConfig(pattern=r"\.(q|qkv|down)$", rank=2),) if adapters else ()
    spec = dataclasses.replace(SPEC, **change)
    config = dataclasses.replace(CONFIG, decoder=spec, lora=table)
    params = random_params(config)
    decoder = parameters.blueprint(config).build(params).decoder
    x = jnp.asarray(np.random.default_rng(2).normal(size=(B, T, SPEC.width)), jnp.float32)
    mask = jnp.broadcast_to(jnp.tril(jnp.ones((T, T), bool)), (B, T, T))
    turn = decoder.rotation(jnp.broadcast_to(jnp.arange(T), (B, T)))
    wanted = decoder(x, turn=turn, mask=mask).final
    for block in decoder.unstacked():
        assert block.fused
        assert block.qkv.lora_a is None
        x, _ = block(x, turn=turn, masks=(mask,))
    np.testing.assert_allclose(x, wanted, rtol=2e-5, atol=2e-5)


def test_unstacked_weights_have_the_type_of_activations(params):
    config = dataclasses.replace(CONFIG, dtype="bfloat16")
    block = parameters.blueprint(config).build(params).decoder.unstacked()[-1]
    wanted = params["decoder.blocks.down.weight"][-1].astype(jnp.bfloat16)
    assert block.down.weight[...].dtype == jnp.bfloat16
    np.testing.assert_array_equal(block.down.weight[...], wanted)
    assert block.mlp_norm.scale[...].dtype == jnp.float32  # norms compute in float32


def test_an_untied_head_is_a_table_of_its_own():
    config = dataclasses.replace(CONFIG, decoder=dataclasses.replace(SPEC, tie_embeddings=False))
    blueprint = parameters.blueprint(config)
    params = {name: jnp.zeros(shape) for name, shape in blueprint.shapes.items()}
    params["decoder.untied_head.table"] += 3
    np.testing.assert_array_equal(blueprint.build(params).decoder.head(), 3)
