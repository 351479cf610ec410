import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tgvlm_jax.ops import rope
from tgvlm_jax.schema import RopeConfig


@functools.partial(jax.jit, static_argnames="theta")
def rotate(x, positions, theta):
    turn = rope.rotation(positions, RopeConfig(theta=theta), head_size=x.shape[-1])
    return rope.rotate(x, turn)


POSITIONS = np.asarray([[0, 1, 2, 700], [5, 5, 3, 0]], np.int32)


def turned(x, positions, theta):
    """Pairs (i, i + k/2) as complex numbers, each multiplied by a unit phase."""
    half = x.shape[-1] // 2
    pairs = x[..., :half].astype(np.complex128) + 1j * x[..., half:]
    for b, t in np.ndindex(*positions.shape):
        for i in range(half):
            pairs[b, t, ..., i] *= np.exp(1j * positions[b, t] / theta ** (2 * i / (2 * half)))
    return np.concatenate([pairs.real, pairs.imag], axis=-1)


@pytest.mark.parametrize("heads", [(), (3,), (2, 3)])
def test_pairs_turn_by_position(heads):
    x = np.random.default_rng(0).standard_normal((2, 4, *heads, 8), np.float32)
    found = rotate(jnp.asarray(x), jnp.asarray(POSITIONS), theta=10_000.0)
    np.testing.assert_allclose(found, turned(x, POSITIONS, 10_000.0), atol=3e-5)


def test_scores_depend_on_distance_only():
    q, k = np.random.default_rng(1).standard_normal((2, 1, 1, 1, 8), np.float32)

    def score(i, j):
        turn = [
            rotate(jnp.asarray(x), jnp.asarray([[at]]), theta=100.0) for x, at in ((q, i), (k, j))
        ]
        return float(jnp.vdot(*turn))

    assert score(3, 1) == pytest.approx(score(40, 38), abs=1e-5)
    assert score(3, 1) != pytest.approx(score(3, 2), abs=1e-3)


def test_angles_are_taken_in_float32():
    x = np.ones((1, 1, 4), "f4")
    position = jnp.asarray([[1001]])  # no bfloat16 has this value
    low = rotate(jnp.asarray(x, "bfloat16"), position, theta=1e6)
    high = rotate(jnp.asarray(x), position, theta=1e6)
    np.testing.assert_allclose(low.astype("f4"), high, atol=0.02)
