"""The critic's loss by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tgvlm_jax.objectives.critic import value_terms

VALUES = np.asarray([[1.0, 2.0, -1.0, np.nan]], np.float32)
OLD = np.asarray([[0.9, 0.0, 0.0, np.nan]], np.float32)
RETURNS = np.asarray([[0.0, 2.0, 1.0, np.nan]], np.float32)
MASK = np.asarray([[True, True, True, False]])


def terms(clip, values=VALUES):
    old, returns, mask = (jnp.asarray(x) for x in (OLD, RETURNS, MASK))
    return value_terms(jnp.asarray(values), returns, old_values=old, mask=mask, clip=clip)


def test_a_value_counts_as_near_its_old_one_where_that_is_worse():
    found = terms(0.5)
    # Close to its old one; right, but too far from 0, so it counts as 0.5; worse as it is.
    assert float(found["value"].sum) == pytest.approx((1 + 1.5**2 + 2**2) / 2)
    assert float(found["value"].weight) == 3
    assert float(found["value_clip_fraction"].sum) == 1


def test_without_clipping_it_is_the_squared_error():
    found = terms(0.0)
    assert float(found["value"].sum) == pytest.approx((1 + 0 + 4) / 2)
    assert float(found["value_clip_fraction"].sum) == 0


def test_what_is_not_asked_has_no_gradient():
    gradient = jax.grad(lambda v: terms(0.5, v)["value"].sum)(jnp.asarray(np.nan_to_num(VALUES)))
    np.testing.assert_allclose(gradient, [[1, 0, -2, 0]])
