"""Frame targets, span likelihood and readout, against values by hand and slow references."""

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st

from tgvlm_jax.grounding import targets


def read(row, *, dtype=np.float32, length=None, fill=9.0, threshold=0.6):
    """Readout of one row, padded to `length` with frames that must not matter."""
    padded = np.full(length or len(row), fill, dtype)
    padded[: len(row)] = row
    mask = jnp.arange(len(padded)) < len(row)
    return jit_readout(jnp.asarray(padded), mask, threshold=threshold).tolist()


jit_readout = jax.jit(targets.readout, static_argnames="threshold")


def slow_readout(row, threshold=0.6):
    """The rule, written as it is told: threshold, runs, means, best run."""
    dtype = row.dtype
    floor = (np.float32(row.max()) * np.float32(threshold)).astype(dtype)
    weights, run = np.full(len(row), -1.0, dtype), []
    for frame, value in enumerate(row):
        if value >= floor:
            run.append(frame)
        if run and (value < floor or frame == len(row) - 1):
            mean = np.float32(sum(np.float64(row[i]) for i in run)) / np.float32(len(run))
            weights[run] = mean.astype(dtype)
            run = []
    best = np.flatnonzero(weights == weights.max())
    return [int(best[0]), int(best[-1])]


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ([0.1, 0.9, 0.8, 0.2, 0.85, 0.86, 0.1], [4, 5]),
        ([0.5, 0.1, 0.5], [0, 2]),
        ([0.5, 0.1, 0.29, 0.4, 0.31], [0, 0]),
        ([0.0, 0.0, 0.0], [0, 2]),
        ([0.3], [0, 0]),
        ([0.2, 0.2, 0.2, 0.2], [0, 3]),
        ([1.0, 0.6, 0.1, 1.0, 0.6], [0, 4]),
        ([np.nan, 0.4], [0, 1]),
    ],
)
def test_readout_values(row, expected, dtype):
    assert read(row, dtype=dtype) == expected
    assert read(row, dtype=dtype, length=11) == expected


def test_the_threshold_counts():
    assert read([0.5, 0.3, 1.0], threshold=0.1) == [0, 2]
    assert read([0.5, 0.3, 1.0], threshold=0.9) == [2, 2]


# Multiples of 1/64: sums are exact, so that equal runs are equal however they are added up.
ROWS = st.lists(st.integers(0, 64).map(lambda n: n / 64), min_size=1, max_size=24)


@hypothesis.settings(deadline=None)  # the first example compiles
@hypothesis.given(row=ROWS, dtype=st.sampled_from([np.float32, np.float16]))
def test_readout_is_the_slow_rule(row, dtype):
    assert read(row, dtype=dtype, length=24) == slow_readout(np.array(row, dtype))


@hypothesis.settings(deadline=None)
@hypothesis.given(row=ROWS)
def test_readout_mirrors_with_the_video(row):
    first, last = read(row, length=24)
    assert 0 <= first <= last < len(row)
    assert read(row[::-1], length=24) == [len(row) - 1 - last, len(row) - 1 - first]


def test_readout_takes_any_leading_dims():
    rows = np.random.default_rng(0).integers(0, 65, (2, 3, 12)).astype(np.float32) / 64
    mask = jnp.ones((2, 3, 12), bool)
    got = jax.jit(targets.readout)(jnp.asarray(rows), mask)
    assert got.dtype == jnp.int32
    expected = [[slow_readout(row) for row in block] for block in rows]
    np.testing.assert_array_equal(got, expected)


def test_soft_targets_by_hand():
    spans_frames = jnp.array([[[1, 3], [0, 0]], [[4, 30], [2, 4]]])
    got = jax.jit(targets.soft_targets, static_argnums=1)(spans_frames, 6)
    expected = [
        [[0.5, 1, 1, 1, 0.5, 0.25], [1, 0.5, 0.25, 0.125, 0.0625, 0.03125]],
        [[0.0625, 0.125, 0.25, 0.5, 1, 1], [0.25, 0.5, 1, 1, 1, 0.5]],
    ]
    np.testing.assert_allclose(got, expected, rtol=1e-6)
    np.testing.assert_array_equal(targets.hard_targets(spans_frames, 6), np.array(expected) == 1)


def test_soft_targets_of_fractional_and_reversed_bounds():
    got = targets.soft_targets(jnp.array([[1.5, 2.25], [3.0, 1.0]]), 4, alpha=3.0)
    expected = [
        [3**-1.5, 3**-0.5, 1, 3**-0.75],
        [1 / 3, 1, 1 / 3, 1],
    ]
    np.testing.assert_allclose(got, expected, rtol=1e-5)


def test_span_log_likelihood_is_the_double_sum():
    rng = np.random.default_rng(1)
    scores = rng.normal(size=(2, 3, 7)).astype(np.float32) * 4
    soft = np.asarray(targets.soft_targets(jnp.array([[1, 3], [2, 2], [0, 6]]), 7))
    mask = np.arange(7) < np.array([[7], [4]])
    got = targets.span_log_likelihood(
        jnp.asarray(scores), jnp.broadcast_to(soft, scores.shape), jnp.asarray(mask)
    )
    inside = 1 / (1 + np.exp(-scores.astype(np.float64)))
    agreement = soft * inside + (1 - soft) * (1 - inside)
    expected = (np.log(agreement + 1e-10) * mask[:, None]).sum(-1)
    np.testing.assert_allclose(got, expected, rtol=1e-5)


def test_span_log_likelihood_is_finite_where_the_model_is_sure_and_wrong():
    scores = jnp.array([[200.0, -200.0, 5.0]])
    wrong = jnp.array([[0.0, 1.0, 1.0]])
    mask = jnp.array([True, True, False])

    def loss(scores):
        return targets.span_log_likelihood(scores, wrong, mask).sum()

    value, gradient = jax.value_and_grad(loss)(scores)
    assert value == pytest.approx(2 * np.log(1e-10), rel=1e-5)
    assert np.all(np.isfinite(gradient))
    assert gradient[0, 2] == 0
