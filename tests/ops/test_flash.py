"""The kernels in plain JAX against attention in float64, and their compilation for TPUs."""

import functools
import importlib.util

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tgvlm_jax.ops import flash
from tgvlm_jax.ops.masks import (
    AttentionMask,
    causal_mask,
    earlier_mask,
    full_width,
    packed_mask,
)
from tgvlm_jax.plan import programs, topology

TOLERANCE = 2e-5  # float32 sums over 200 keys; 1.5e-5 was measured of gradients of about 40
ORDER = np.broadcast_to(np.arange(200), (2, 200))
VALID = np.asarray(ORDER < [[200], [120]])
FRAMES = np.asarray((ORDER > 20) & (ORDER < 150) & (ORDER != 60))


def two_way():
    places = np.where(VALID, ORDER, 0)
    return causal_mask(*map(jnp.asarray, (places, VALID)), block=jnp.asarray(FRAMES))


def windowed():
    places = np.where(VALID, ORDER, 0)
    return causal_mask(*map(jnp.asarray, (places, VALID)), window=30)


def response():
    return full_width(earlier_mask(jnp.asarray(VALID), jnp.zeros(1, jnp.int32)), 24)


def stretches(*lengths):
    """Which sample stands in each slot of two rows, and its place there, filled up with 0."""
    each = [(np.repeat(np.arange(len(row)), row), np.concatenate([*map(np.arange, row)]))
            for row in lengths]  # fmt: skip
    whole = max(len(places) for _, places in each)
    return (
        np.stack([np.pad(x, (0, whole - len(x))) for x in one]) for one in zip(*each, strict=True)
    )


PROMPTS = ((90, 1, 70, 39), (100, 20))


def packed():
    segments, places = map(jnp.asarray, stretches(*PROMPTS))
    return causal_mask(places, jnp.asarray(VALID), segments=segments, window=40)


def packed_response():
    """Answers behind them; that of the second sample is empty."""
    of_keys, prompts = map(jnp.asarray, stretches(*PROMPTS))
    segments, answers = stretches((9, 0, 14, 1), (4, 20))
    after = answers + np.stack(
        [np.asarray(row)[own] for row, own in zip(PROMPTS, segments, strict=True)]
    )
    return packed_mask(
        *map(jnp.asarray, (segments, after)),
        of_keys=of_keys,
        places=prompts,
        filled=jnp.asarray(VALID),
        window=60,
    )


def textbook(q, k, v, seen):
    """Softmax attention, its logsumexp; every head and row with keys of its own."""
    k, v = (
        np.repeat(np.repeat(x, len(q) // len(x), 0), q.shape[1] // x.shape[1], 1) for x in (k, v)
    )
    seen = np.repeat(seen, len(q) // len(seen), 0)[:, None]
    scores = np.where(seen, np.einsum("bntc,bnsc->bnts", q, k) / np.sqrt(q.shape[-1]), -np.inf)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    total = weights.sum(-1, keepdims=True)
    lse = np.log(total[..., 0]) + scores.max(-1)
    return np.einsum("bnts,bnsc->bntc", weights / total, v), lse, weights / total, k, v


@pytest.mark.parametrize(
    ("mask", "rows", "size"),
    [
        (two_way, 4, 96),
        pytest.param(response, 4, 64, marks=pytest.mark.slow),
        pytest.param(windowed, 2, 8, marks=pytest.mark.slow),
        pytest.param(packed, 2, 8, marks=pytest.mark.slow),
        (packed_response, 2, 8),
    ],
)
def test_kernels_compute_attention_and_its_gradient(mask, rows, size, monkeypatch):
    """Several blocks, padding, four heads to two, and two answers to a prompt's keys."""
    monkeypatch.setattr(flash, "_KEYS", 128)
    monkeypatch.setattr(flash, "_QUERIES", 128)
    mask = mask()
    rng, t = np.random.default_rng(0), mask.low.shape[1]
    q, slope = (rng.standard_normal((rows, 4, t, size)) for _ in range(2))
    k, v = (rng.standard_normal((2, 2, 200, size)) for _ in range(2))
    out, lse, weights, wide_k, wide_v = textbook(q, k, v, np.asarray(mask.dense()))
    shared = (slope * out).sum(-1)
    of_scores = weights * (np.einsum("bntc,bnsc->bnts", slope, wide_v) - shared[..., None])
    of_scores /= np.sqrt(size)

    def grouped(x):
        return x.reshape(2, rows // 2, 2, 2, *x.shape[2:]).sum((1, 3))

    low = [jnp.asarray(x, jnp.float32) for x in (q, k, v, lse, slope, shared)]

    @jax.jit
    def both(q, k, v, lse, slope, shared):
        seen = flash.forward(q, k, v, mask, interpret=True)
        known = {"lse": lse, "slope": slope, "shared": shared}
        return seen, flash.backward(q, k, v, mask, **known, interpret=True)

    seen, slopes = both(*low)
    close = functools.partial(np.testing.assert_allclose, atol=TOLERANCE, rtol=TOLERANCE)
    close(seen.out, out)
    close(seen.lse, lse)
    close(slopes.q, np.einsum("bnts,bnsc->bntc", of_scores, wide_k))
    close(slopes.k, grouped(np.einsum("bnts,bntc->bnsc", of_scores, q)))
    close(slopes.v, grouped(np.einsum("bnts,bntc->bnsc", weights, slope)))


def test_queries_that_see_nothing_stay_finite():
    nothing = AttentionMask(
        low=jnp.ones((1, 16), jnp.int32),
        high=jnp.zeros((1, 16), jnp.int32),
        place=jnp.zeros((1, 32), jnp.int32),
    )
    q, k = jnp.ones((1, 1, 16, 8)), jnp.ones((1, 1, 32, 8))
    seen = flash.forward(q, k, k, nothing, interpret=True)
    assert not np.any(seen.out)
    np.testing.assert_array_equal(seen.lse, np.float32(flash.FAR_BELOW))


@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed")
@pytest.mark.parametrize("size", [128, pytest.param(96, marks=pytest.mark.slow)])
def test_kernels_compile_for_a_tpu_and_say_what_they_cost(size, monkeypatch):
    """Mosaic takes them, and `cost_analysis` has their FLOPs, to what the rest adds."""
    monkeypatch.delenv("XLA_FLAGS", raising=False)  # libtpu dies of flags that are for CPUs
    mesh = programs.single(topology.find("v5e:1x1").devices)
    layout = jax.sharding.NamedSharding(mesh, jax.P())

    def array(kind, *shape):
        return jax.ShapeDtypeStruct(shape, kind, sharding=layout)

    q, k = array(jnp.bfloat16, 2, 4, 1024, size), array(jnp.bfloat16, 1, 2, 2048, size)
    numbers, rows = array(jnp.int32, 1, 1024), array(jnp.float32, 2, 4, 1024)
    of_keys = array(jnp.int32, 1, 2048)
    mask = AttentionMask(low=numbers, high=numbers, place=of_keys, group=numbers, key_group=of_keys)

    def both(q, k, mask, rows):
        seen = flash.forward(q, k, k, mask, share=0.5)
        known = {"lse": rows, "slope": q, "shared": rows}
        return seen, flash.backward(q, k, k, mask, **known, share=0.5)

    compiled = jax.jit(both).lower(q, k, mask, rows).compile()
    said = flash.flops(rows=2, heads=4, queries=1024, keys=2048, size=size, share=0.5)
    assert said["flash_forward"] == 4 * 2 * 4 * 1024 * 2048 * size / 2
    counted = compiled.cost_analysis()["flops"]
    assert counted == pytest.approx(sum(said.values()), rel=0.01)
    for name in said:
        assert name in compiled.as_text()
