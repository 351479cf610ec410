import jax
import jax.numpy as jnp
import numpy as np

from tgvlm_jax.ops.cross_entropy import token_log_probs

RNG = np.random.default_rng(0)
STATES = jnp.asarray(RNG.standard_normal((2, 7, 4), np.float32))
HEAD = jnp.asarray(3 * RNG.standard_normal((11, 4), np.float32))
TARGETS = jnp.asarray(RNG.integers(0, 11, (2, 7)), jnp.int32)
COTANGENT = jnp.asarray(RNG.standard_normal((2, 7), np.float32))


def gathered(states, head, targets):
    logs = jax.nn.log_softmax(states @ head.T)
    return jnp.take_along_axis(logs, targets[..., None], axis=-1)[..., 0]


def with_gradients(function):
    @jax.jit
    def run(states, head):
        values, back = jax.vjp(lambda *args: function(*args, TARGETS), states, head)
        return values, *back(COTANGENT)

    return run(STATES, HEAD)


def test_equals_a_gather_from_log_softmax_chunked_or_not():
    expected = with_gradients(gathered)
    for chunk in (512, 3):

        def chunked(states, head, targets, chunk=chunk):
            return token_log_probs(states, head, targets, chunk=chunk)

        for found, wanted in zip(with_gradients(chunked), expected, strict=True):
            np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_huge_logits_stay_finite():
    found = token_log_probs(100 * STATES, 100 * HEAD, TARGETS)
    assert np.all(np.isfinite(found))
    assert np.all(found <= 0)


def test_chunks_bound_the_logits_that_exist():
    """No array of length x vocabulary may appear when chunks are asked for."""

    def loss(states):
        return token_log_probs(states, HEAD, TARGETS, chunk=3).sum()

    text = str(jax.make_jaxpr(jax.grad(loss))(STATES))
    assert "f32[2,3,11]" in text
    assert "f32[2,7,11]" not in text
