"""The policy loss: its laws under padding, accumulation, clipping, and on hard inputs."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tgvlm_jax.objectives import policy
from tgvlm_jax.objectives.policy import PRESETS
from tgvlm_jax.schema import PolicyConfig
from tgvlm_jax.types import InputError

ROWS, LENGTH = 6, 5
GROUP = np.asarray([0, 1, 0, 2, 1, 1])
MASK = np.arange(LENGTH) < np.asarray([5, 3, 0, 4, 1, 2])[:, None]
AGGREGATIONS = (
    "token_mean", "sequence_mean", "sequence_sum", "group_mean", "length_mean", "length_sum"
)  # fmt: skip


def inputs(seed=0, rows=ROWS, length=LENGTH):
    rng = np.random.default_rng(seed)
    old = -rng.exponential(size=(rows, length)).astype(np.float32)
    now = old + rng.normal(0, 0.3, size=old.shape).astype(np.float32)
    ref = old + rng.normal(0, 0.3, size=old.shape).astype(np.float32)
    advantages = np.broadcast_to(rng.normal(size=(rows, 1)), old.shape).astype(np.float32)
    return now, old, ref, advantages


def loss(now, made, weights, config):
    sums = policy.sums(now, made, config=config, entropy=-now)
    factors = policy.coefficients(config)
    return sum(factors[name] * value / weights[name] for name, value in sums.items())


def prepare(config, mask=MASK, group=GROUP, arrays=None):
    now, old, ref, advantages = arrays or inputs()
    mask, group = jnp.asarray(mask), jnp.asarray(group)
    made = policy.Sampled(
        old_log_probs=jnp.asarray(old),
        ref_log_probs=jnp.asarray(ref),
        advantages=jnp.asarray(advantages),
        mask=mask,
        scale=policy.row_scale(mask, group, config=config),
    )
    return jnp.asarray(now), made, policy.weights(mask, group, config=config)


def value_and_grad(now, made, weights, config):
    return jax.jit(jax.value_and_grad(loss), static_argnums=3)(now, made, weights, config)


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
def test_aggregations_against_numpy(aggregation):
    config = PolicyConfig(aggregation=aggregation, kl=0.1, length=7)
    now, made, weights = prepare(config)
    value, _ = value_and_grad(now, made, weights, config)

    ratio = np.exp(np.asarray(now - made.old_log_probs, np.float64))
    advantages, gap = np.asarray(made.advantages), np.asarray(made.ref_log_probs - now)
    token = np.maximum(-advantages * ratio, -advantages * np.clip(ratio, 0.8, 1.2))
    token = np.where(advantages < 0, np.minimum(token, -3 * advantages), token)
    token = (token + 0.1 * (np.exp(gap) - gap - 1)) * MASK
    rows, counts, filled = token.sum(axis=1), MASK.sum(axis=1), MASK.any(axis=1)
    groups = [one == GROUP for one in range(3)]
    wanted = {
        "token_mean": token.sum() / MASK.sum(),
        "sequence_mean": np.mean(rows[filled] / counts[filled]),
        "sequence_sum": np.mean(rows[filled]),
        "group_mean": np.mean([rows[one].sum() / counts[one].sum() for one in groups]),
        "length_mean": rows.sum() / 7 / filled.sum(),
        "length_sum": rows.sum() / 7,
    }
    assert float(value) == pytest.approx(wanted[aggregation], rel=1e-5)


def keep(made, rows):
    """A micro-batch: the rest of the rows without a token, what the whole batch fixed as it is."""
    inside = jnp.asarray(np.isin(np.arange(ROWS), rows))
    return dataclasses.replace(made, mask=made.mask & inside[:, None])


@pytest.mark.parametrize("name", PRESETS)
def test_laws_of_every_preset(name):
    """Micro-batches add up; what stands behind the mask does not matter; no tokens, no loss."""
    config = dataclasses.replace(PRESETS[name], kl=0.1, entropy=0.01)
    now, made, weights = prepare(config)
    value, gradient = value_and_grad(now, made, weights, config)
    assert np.any(gradient)

    parts = [
        value_and_grad(now, keep(made, rows), weights, config) for rows in ([0, 1, 4], [2, 3, 5])
    ]
    assert sum(float(one) for one, _ in parts) == pytest.approx(float(value), rel=1e-5, abs=1e-7)
    np.testing.assert_allclose(sum(one for _, one in parts), gradient, rtol=1e-5, atol=1e-7)

    fill = (np.nan, -np.inf, np.nan, np.inf)
    arrays = [np.where(MASK, x, y) for x, y in zip(inputs(), fill, strict=True)]
    other, again = value_and_grad(*prepare(config, arrays=arrays), config)
    assert float(other) == float(value)
    np.testing.assert_array_equal(again, gradient)

    nothing, flat = value_and_grad(*prepare(config, mask=np.zeros_like(MASK)), config)
    assert float(nothing) == 0
    np.testing.assert_array_equal(flat, 0)


@pytest.mark.parametrize("name", ["verl", "gspo", "dr_grpo"])
def test_more_columns_change_nothing(name):
    config = dataclasses.replace(PRESETS[name], length=LENGTH)
    value, gradient = value_and_grad(*prepare(config), config)
    arrays = [np.pad(x, ((0, 0), (0, 3))) for x in inputs()]
    mask = np.pad(MASK, ((0, 0), (0, 3)))
    other, wider = value_and_grad(*prepare(config, mask=mask, arrays=arrays), config)
    assert float(other) == pytest.approx(float(value), rel=1e-6)
    np.testing.assert_allclose(wider[:, :LENGTH], gradient, rtol=1e-5, atol=1e-7)
    np.testing.assert_array_equal(wider[:, LENGTH:], 0)


@pytest.mark.parametrize("far", [-1e4, 1e4])
@pytest.mark.parametrize("name", ["verl", "verl_gspo", "videossr"])
def test_ratios_out_of_sight_stay_finite(name, far):
    config = dataclasses.replace(PRESETS[name], kl=0.1)
    now, old, ref, advantages = inputs()
    arrays = (now, old + np.float32(far), ref - np.float32(far), advantages)
    value, gradient = value_and_grad(*prepare(config, arrays=arrays), config)
    assert np.isfinite(float(value))
    assert np.all(np.isfinite(gradient))


@pytest.mark.parametrize(
    ("surrogate", "ratio"),
    [("clip", "token"), ("cispo", "token"), ("sapo", "token"), ("vespo", "token"),
     ("clip", "sequence_token")],
)  # fmt: skip
def test_on_policy_all_are_the_policy_gradient(surrogate, ratio):
    config = PolicyConfig(surrogate=surrogate, ratio=ratio)
    _, old, ref, advantages = inputs()
    now, made, weights = prepare(config, arrays=(old, old, ref, advantages))
    _, gradient = value_and_grad(now, made, weights, config)
    np.testing.assert_allclose(gradient, -advantages * MASK / MASK.sum(), rtol=1e-5, atol=1e-8)


def single(ratio, advantage, **changes):
    """Loss and gradient of one token with a log-probability of log(ratio) over the old one's."""
    config = PolicyConfig(**changes)
    mask, group = np.ones((1, 1), bool), np.zeros(1, np.int32)
    arrays = [np.full((1, 1), x, np.float32) for x in (np.log(ratio), 0, 0, advantage)]
    value, gradient = value_and_grad(*prepare(config, mask, group, arrays), config)
    return float(value), float(gradient[0, 0])


@pytest.mark.parametrize(
    ("ratio", "advantage", "value", "gradient"),
    [
        (1.1, 2.0, -2.2, -2.2),
        (1.5, 2.0, -2.56, 0.0),  # enough of a good thing
        (0.5, 2.0, -1.0, -1.0),  # the way back stays open
        (0.5, -2.0, 1.6, 0.0),
        (1.5, -2.0, 3.0, 3.0),
        (9.0, -2.0, 6.0, 0.0),  # the second bound
    ],
)
def test_the_clipped_objective(ratio, advantage, value, gradient):
    found = single(ratio, advantage, clip_low=0.2, clip_high=0.28, dual_clip=3.0)
    assert found == (pytest.approx(value, rel=1e-5), pytest.approx(gradient, rel=1e-5, abs=1e-6))


def test_without_a_second_bound_a_bad_token_counts_in_full():
    assert single(9.0, -2.0, dual_clip=0.0) == (pytest.approx(18), pytest.approx(18))


@pytest.mark.parametrize(
    ("kind", "value", "slope"),
    [("k1", 0.5, 1.0), ("abs", 0.5, 1.0), ("k2", 0.125, 0.5), ("k3", np.exp(-0.5) - 0.5, None)],
)
def test_divergences(kind, value, slope):
    config = PolicyConfig(kl_estimator=kind)

    def one(now):
        return policy.divergence(now, jnp.full((1, 1), -1.5), config=config)[0, 0]

    found, gradient = jax.value_and_grad(one)(jnp.full((1, 1), -1.0))
    assert float(found) == pytest.approx(value, rel=1e-6)
    wanted = 1 - np.exp(-0.5) if slope is None else slope
    assert float(gradient[0, 0]) == pytest.approx(wanted, rel=1e-6)


def test_k3_is_bounded_where_a_limit_is_set():
    now, far = jnp.zeros((1, 2)), jnp.asarray([[200.0, -200.0]])
    bounded = policy.divergence(now, far, config=PolicyConfig())
    np.testing.assert_array_equal(bounded, 10)
    free = policy.divergence(now, far, config=PolicyConfig(kl_limit=0.0))
    assert not np.all(np.isfinite(free))


def test_a_group_counts_once_however_long_its_answers():
    config = PolicyConfig(aggregation="group_mean")
    weights = policy.weights(jnp.asarray(MASK), jnp.asarray(GROUP), config=config)
    assert float(weights["policy"]) == 3
    without = jnp.asarray(MASK & (GROUP != 2)[:, None])
    assert float(policy.weights(without, jnp.asarray(GROUP), config=config)["policy"]) == 2


SEGMENT = np.asarray([[0, 0, 1, 1, 1], [0, 1, 1, 0, 0], [1] * 5, [0] * 5, [1] * 5, [0, 1, 0, 0, 0]])


def test_means_of_segments_may_be_added_up():
    """The letter of VideoP2R's equation 7; the divergence stays a mean over the whole answer."""
    config = PolicyConfig(aggregation="sequence_mean", kl=0.1)
    now, made, _ = prepare(config)
    mask, segment = jnp.asarray(MASK), jnp.asarray(SEGMENT)
    apart = dataclasses.replace(made, policy_scale=policy.segment_scale(mask, segment, segments=2))
    plain = policy.sums(now, made, config=config)
    found = policy.sums(now, apart, config=config)
    assert float(found["kl"]) == float(plain["kl"])
    ratio = np.exp(np.asarray(now - made.old_log_probs))
    gain = np.asarray(made.advantages)
    token = np.maximum(-gain * ratio, -gain * np.clip(ratio, 0.8, 1.2))
    token = np.where(gain < 0, np.minimum(token, -3 * gain), token)
    wanted = sum(
        token[row, inside].mean()
        for row in range(ROWS)
        for one in range(2)
        if (inside := MASK[row] & (one == SEGMENT[row])).any()
    )
    assert float(found["policy"]) == pytest.approx(wanted, rel=1e-5)


def test_a_segment_hears_only_its_own_advantage():
    """VideoP2R: gradients of one segment's tokens do not depend on the other's reward."""
    config = PolicyConfig(aggregation="sequence_mean")
    now, old, ref, _ = inputs()

    def gradient(perceived):
        gain = np.where(SEGMENT == 0, perceived, 0.7).astype(np.float32)
        found = value_and_grad(*prepare(config, arrays=(now, old, ref, gain)), config)[1]
        return np.asarray(found)

    one, other = gradient(1.0), gradient(-2.0)
    np.testing.assert_array_equal(one[SEGMENT == 1], other[SEGMENT == 1])
    assert np.any(one[SEGMENT == 0] != other[SEGMENT == 0])


def test_metrics_count_tokens():
    config = PolicyConfig()
    ratios = np.asarray([[1.0, 1.5, 0.5, 9.0, 9.0]])
    advantages = np.asarray([[1.0, 1.0, -1.0, -1.0, 7.0]])
    arrays = [x.astype(np.float32) for x in (np.log(ratios), 0 * ratios, 0 * ratios, advantages)]
    mask = np.asarray([[True, True, True, True, False]])
    now, made, _ = prepare(config, mask, np.zeros(1, np.int32), arrays)
    found = policy.metrics(now, made, config=config)
    shares = {name: float(term.sum / term.weight) for name, term in found.items()}
    wanted = {
        "clip_fraction": 2 / 4,
        "dual_clip_fraction": 1 / 4,
        "old_kl": -np.log([1.5, 0.5, 9]).sum() / 4,
    }
    assert shares == pytest.approx(wanted, rel=1e-6)


def test_a_second_bound_inside_the_clip_range_is_refused():
    with pytest.raises(InputError, match=r"dual_clip=1\.1 lies within the clip range"):
        PolicyConfig(dual_clip=1.1)


def test_a_divergence_without_a_reference_is_said():
    config = PolicyConfig(kl=0.1)
    now, made, weights = prepare(config)
    made = dataclasses.replace(made, ref_log_probs=None)
    with pytest.raises(AssertionError, match="reference"):
        loss(now, made, weights, config)
