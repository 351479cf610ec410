import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tgvlm_jax.ops import attention
from tgvlm_jax.ops.attention import KeyValues, causal_mask

attend = jax.jit(attention.attend)

B, T, H, R, K = 2, 3, 2, 3, 8  # queries of two prompts, two key heads with three query heads each


def normal(seed, *shape):
    return jax.device_put(np.random.default_rng(seed).standard_normal(shape, np.float32))


def plain(q, k, v, mask):
    """Softmax attention in float64, one query head and one query at a time."""
    q, k, v = (np.asarray(x, np.float64) for x in (q, k, v))
    out = np.zeros_like(q)
    for b, t, h, r in np.ndindex(*q.shape[:4]):
        seen = np.flatnonzero(np.broadcast_to(mask, (len(q), q.shape[1], k.shape[1]))[b, t])
        scores = k[b, seen, h] @ q[b, t, h, r] / np.sqrt(q.shape[-1])
        weights = np.exp(scores - scores.max())
        out[b, t, h, r] = weights @ v[b, seen, h] / weights.sum()
    return out


@pytest.fixture(scope="module")
def two_stretches():
    rng = np.random.default_rng(0)
    prompt = KeyValues(k=normal(1, B, 5, H, K), v=normal(2, B, 5, H, K))
    own = KeyValues(k=normal(3, B, T, H, K), v=normal(4, B, T, H, K))
    filled = jnp.asarray(rng.random((B, 1, 5)) < 0.6)
    causal = jnp.asarray(np.broadcast_to(np.tril(np.ones((T, T), bool)), (B, T, T)))
    return 3 * normal(0, B, T, H, R, K), (prompt, own), (filled, causal)


def test_stretches_share_one_softmax(two_stretches):
    q, stretches, masks = two_stretches
    k = np.concatenate([kv.k for kv in stretches], axis=1)
    v = np.concatenate([kv.v for kv in stretches], axis=1)
    mask = np.concatenate([np.broadcast_to(masks[0], (B, T, 5)), masks[1]], axis=-1)
    np.testing.assert_allclose(attend(q, stretches, masks), plain(q, k, v, mask), atol=2e-6)


def test_folded_heads_equal_repeated_heads(two_stretches):
    q, (_, own), (_, causal) = two_stretches
    repeated = jax.tree.map(lambda x: jnp.asarray(np.repeat(x, R, axis=2)), own)
    wide = attend(q.reshape(B, T, H * R, 1, K), [repeated], [causal])
    folded = attend(q, [own], [causal])
    np.testing.assert_allclose(folded, wide.reshape(folded.shape), atol=1e-6)


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
    found = causal_mask(*map(jnp.asarray, (positions, valid)), block=jnp.asarray(block))
    np.testing.assert_array_equal(found[0], np.asarray(expected, bool))
