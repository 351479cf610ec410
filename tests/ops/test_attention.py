import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tgvlm_jax.ops import attention
from tgvlm_jax.ops.attention import KeyValues
from tgvlm_jax.ops.masks import causal_mask

attend = jax.jit(attention.attend)

B, T, H, R, K = 2, 3, 2, 3, 8  # queries of two prompts, two key heads with three query heads each


def normal(seed, *shape):
    return jax.device_put(np.random.default_rng(seed).standard_normal(shape, np.float32))


def plain(q, k, v, mask):
    """Softmax attention in float64, one query head and one query at a time."""
    q, k, v = (np.asarray(x, np.float64) for x in (q, k, v))
    out = np.zeros_like(q)
    for b, t, h, r in np.ndindex(*q.shape[:4]):
        seen = np.flatnonzero(np.broadcast_to(mask, (len(q), q.shape[1], k.shape[2]))[b, t])
        scores = k[b, h, seen] @ q[b, t, h, r] / np.sqrt(q.shape[-1])
        weights = np.exp(scores - scores.max())
        out[b, t, h, r] = weights @ v[b, h, seen] / weights.sum()
    return out


@pytest.fixture(scope="module")
def two_stretches():
    rng = np.random.default_rng(0)
    prompt = KeyValues(k=normal(1, B, H, 5, K), v=normal(2, B, H, 5, K))
    own = KeyValues(k=normal(3, B, H, T, K), v=normal(4, B, H, T, K))
    filled = jnp.asarray(rng.random((B, 1, 5)) < 0.6)
    causal = jnp.asarray(np.broadcast_to(np.tril(np.ones((T, T), bool)), (B, T, T)))
    return 3 * normal(0, B, T, H, R, K), (prompt, own), (filled, causal)


def test_stretches_share_one_softmax(two_stretches):
    q, stretches, masks = two_stretches
    k = np.concatenate([kv.k for kv in stretches], axis=2)
    v = np.concatenate([kv.v for kv in stretches], axis=2)
    mask = np.concatenate([np.broadcast_to(masks[0], (B, T, 5)), masks[1]], axis=-1)
    np.testing.assert_allclose(attend(q, stretches, masks), plain(q, k, v, mask), atol=2e-6)


def test_folded_heads_equal_repeated_heads(two_stretches):
    q, (_, own), (_, causal) = two_stretches
    repeated = jax.tree.map(lambda x: jnp.asarray(np.repeat(x, R, axis=1)), own)
    wide = attend(q.reshape(B, T, H * R, 1, K), [repeated], [causal])
    folded = attend(q, [own], [causal])
    np.testing.assert_allclose(folded, wide.reshape(folded.shape), atol=1e-6)


@pytest.mark.parametrize("shared", [1, B], ids=["one prompt", "a prompt each"])
def test_rows_that_share_keys_equal_rows_with_keys_of_their_own(shared):
    """Six queries on one or two prompts, in values and in every gradient."""
    rows = 6
    q, gradient = normal(0, rows, T, H, R, K), normal(1, rows, T, H, R, K)
    prompt = KeyValues(k=normal(2, shared, H, 5, K), v=normal(3, shared, H, 5, K))
    own = KeyValues(k=normal(4, rows, H, T, K), v=normal(5, rows, H, T, K))
    rng = np.random.default_rng(0)
    filled = jnp.asarray(rng.random((shared, 1, 5)) < 0.6)
    causal = jnp.asarray(np.broadcast_to(np.tril(np.ones((T, T), bool)), (rows, T, T)))

    def repeat(x):
        return jnp.repeat(x, rows // shared, axis=0)

    def apart(q, prompt, own):
        return attention.attend(q, (jax.tree.map(repeat, prompt), own), (repeat(filled), causal))

    def together(q, prompt, own):
        return attention.attend(q, (prompt, own), (filled, causal))

    @functools.partial(jax.jit, static_argnums=0)
    def both(function):
        out, pull = jax.vjp(function, q, prompt, own)
        return out, pull(gradient)

    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=2e-6), both(together), both(apart)
    )


def test_large_scores_and_rows_without_keys_stay_finite(two_stretches):
    q, stretches, masks = two_stretches
    nothing = tuple(mask & False for mask in masks)

    @jax.jit
    @jax.value_and_grad
    def total(q, masks):
        return attention.attend(1e4 * q, stretches, masks).sum()

    for some in (masks, nothing):
        value, grad = total(q, some)
        assert np.isfinite(value)
        assert np.all(np.isfinite(grad))


def test_bfloat16_keeps_its_type_and_softmax_in_float32(two_stretches):
    q, stretches, masks = two_stretches
    low = jax.tree.map(lambda x: x.astype("bfloat16"), (q, stretches))
    found = attend(*low, masks)
    assert found.dtype == "bfloat16"
    np.testing.assert_allclose(found.astype("f4"), attend(q, stretches, masks), atol=0.05)


def test_mask_is_causal_but_for_the_block_and_padding():
    positions = np.asarray([[0, 1, 2, 3, 4, 0]])
    valid = np.asarray([[True] * 5 + [False]])
    block = np.asarray([[False, True, True, False, False, False]])
    expected = [
        [1, 0, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0],  # the first frame sees the second
        [1, 1, 1, 0, 0, 0],
        [1, 1, 1, 1, 0, 0],
        [1, 1, 1, 1, 1, 0],
        [1, 0, 0, 0, 0, 0],  # padding is seen by nobody
    ]
    found = causal_mask(*map(jnp.asarray, (positions, valid)), block=jnp.asarray(block)).dense()
    np.testing.assert_array_equal(found[0], np.asarray(expected, bool))


def test_gradients_are_those_of_the_plain_form(two_stretches):
    q, stretches, masks = two_stretches
    shown = normal(5, *q.shape)
    masks = (masks[0] & False, masks[1].at[0, 1].set(False))  # one row sees nothing at all

    def textbook(q, stretches):
        k = jnp.concatenate([kv.k for kv in stretches], axis=2)
        v = jnp.concatenate([kv.v for kv in stretches], axis=2)
        mask = jnp.concatenate([jnp.broadcast_to(m, (B, T, m.shape[-1])) for m in masks], axis=-1)
        scores = jnp.einsum("bthrk,bhsk->bhrts", q, k) / np.float32(np.sqrt(K))
        weights = jax.nn.softmax(jnp.where(mask[:, None, None], scores, -1e30), axis=-1)
        return jnp.sum(shown * jnp.einsum("bhrts,bhsk->bthrk", weights, v))

    def ours(q, stretches):
        return jnp.sum(shown * attention.attend(q, stretches, masks))

    wanted = jax.jit(jax.grad(textbook, argnums=(0, 1)))(q, stretches)
    found = jax.jit(jax.grad(ours, argnums=(0, 1)))(q, stretches)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=5e-6), found, wanted)


def test_no_scores_are_kept_for_the_gradient(two_stretches):
    q, stretches, masks = two_stretches
    kept = jax.eval_shape(lambda *x: jax.vjp(attention.attend, *x)[1], q, stretches, masks)
    assert max(leaf.size for leaf in jax.tree.leaves(kept)) <= q.size
