"""Rotary embedding of patches, and of text on three axes, against their definitions."""

import jax.numpy as jnp
import numpy as np
import pytest

from tgvlm_jax.ops.rope import rotation
from tgvlm_jax.ops.vision_rope import grid_rotation, rotate_heads
from tgvlm_jax.schema import RopeConfig

RNG = np.random.default_rng(0)


def test_rows_and_columns_turn_their_quarters():
    size = 12
    places = RNG.integers(0, 50, (2, 3, 5, 2)).astype(np.int32)
    x = RNG.normal(size=(2, 3, 5, 4, size)).astype(np.float32)
    got = np.asarray(
        rotate_heads(jnp.asarray(x), grid_rotation(jnp.asarray(places), head_size=size))
    )
    rates = 1 / 10_000 ** (np.arange(0, 6, 2) / 6)
    angles = np.concatenate([places[..., :1] * rates, places[..., 1:] * rates], axis=-1)
    turn = np.exp(1j * angles)[..., None, :]
    wanted = (x[..., :6] + 1j * x[..., 6:]) * turn
    np.testing.assert_allclose(got, np.concatenate([wanted.real, wanted.imag], -1), atol=1e-5)


def test_turning_is_done_in_float32():
    places = jnp.asarray(RNG.integers(0, 200, (9, 2)).astype(np.int32))
    x = jnp.asarray(RNG.normal(size=(9, 2, 8))).astype(jnp.bfloat16)
    by = grid_rotation(places, head_size=8)
    got = rotate_heads(x, by)
    assert got.dtype == jnp.bfloat16
    wanted = rotate_heads(x.astype(jnp.float32), by).astype(jnp.bfloat16)
    np.testing.assert_array_equal(got, wanted)


@pytest.mark.parametrize(
    ("interleaved", "sections", "axes"),
    [
        (False, (2, 3, 3), [0, 0, 1, 1, 1, 2, 2, 2]),
        (True, (4, 2, 2), [0, 1, 2, 0, 1, 2, 0, 0]),
    ],
)
def test_text_turns_by_time_row_and_column(interleaved, sections, axes):
    places = RNG.integers(0, 300, (3, 2, 7)).astype(np.int32)
    config = RopeConfig(theta=1e6, sections=sections, interleaved=interleaved)
    got = rotation(jnp.asarray(places), config, head_size=16)
    rates = 1 / 1e6 ** (np.arange(0, 16, 2) / 16)
    angles = np.stack([places[axis] * rate for axis, rate in zip(axes, rates, strict=True)], -1)
    np.testing.assert_allclose(got.cos, np.cos(angles), atol=3e-5)
    np.testing.assert_allclose(got.sin, np.sin(angles), atol=3e-5)
