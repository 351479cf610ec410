"""Group estimators and generalised advantage estimation against plain Python and their laws."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tgvlm_jax.objectives import advantages
from tgvlm_jax.schema import AdvantageConfig, CreditConfig

VIDEO_R1 = advantages.PRESETS["video_r1"]
group_advantages = jax.jit(advantages.group_advantages, static_argnames="config")
segment_advantages = jax.jit(advantages.segment_advantages, static_argnames="config")
combined_advantages = jax.jit(advantages.combined_advantages, static_argnames="config")
token_credit = jax.jit(advantages.token_credit, static_argnames="config")


def draw(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def test_a_group_against_numpy():
    rewards, group = draw(8), np.asarray([3, 3, 3, 3, 9, 9, 9, 9])
    found = group_advantages(rewards, group, config=AdvantageConfig(epsilon=1e-4))
    for rows in (slice(0, 4), slice(4, 8)):
        one = rewards[rows].astype(np.float64)
        wanted = (one - one.mean()) / (one.std(ddof=1) + 1e-4)
        np.testing.assert_allclose(found[rows], wanted, rtol=1e-5)


def test_the_others_leave_the_answer_itself_out():
    rewards, group = draw(5), np.zeros(5, np.int32)
    config = AdvantageConfig(baseline="others", scale="none")
    wanted = [one - (rewards.sum() - one) / 4 for one in rewards]
    np.testing.assert_allclose(group_advantages(rewards, group, config=config), wanted, rtol=1e-5)


@pytest.mark.parametrize("name", advantages.PRESETS)
def test_rows_may_stand_in_any_order(name):
    rewards, group = draw(9), np.asarray([0, 1, 0, 2, 1, 1, 0, 2, 5])
    order, config = np.random.default_rng(1).permutation(9), advantages.PRESETS[name]
    found = group_advantages(rewards, group, config=config)
    again = group_advantages(rewards[order], group[order], config=config)
    np.testing.assert_allclose(found[order], again, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("name", advantages.PRESETS)
@pytest.mark.parametrize("reward", [1 / 3, 0.1, 1e6 / 7, 0.0])
def test_equal_rewards_carry_no_signal(name, reward):
    """Exactly: thirds do not average to a third in float32, and epsilon is small."""
    rewards = np.full(8, reward, np.float32)
    config = advantages.PRESETS[name]
    found = group_advantages(rewards, np.zeros(8, np.int32), config=config)
    np.testing.assert_array_equal(found, 0)


@pytest.mark.parametrize("absent", [np.nan, np.inf, -np.inf])
def test_an_absent_reward_is_left_out(absent):
    rewards, group = draw(4), np.zeros(4, np.int32)
    found = group_advantages(
        np.append(rewards, np.float32(absent)), np.zeros(5, np.int32), config=VIDEO_R1
    )
    wanted = group_advantages(rewards, group, config=VIDEO_R1)
    np.testing.assert_allclose(found, [*wanted, 0], rtol=1e-6)
    nobody = group_advantages(np.full(4, absent, np.float32), group, config=VIDEO_R1)
    np.testing.assert_array_equal(nobody, 0)


def test_an_answer_without_company():
    rewards, group = np.asarray([2.0, 1.0, 3.0], np.float32), np.asarray([7, 8, 8])
    zero = group_advantages(rewards, group, config=AdvantageConfig())
    assert zero[0] == 0
    reward = group_advantages(rewards, group, config=AdvantageConfig(lone="reward"))
    np.testing.assert_allclose(reward[0], 2, rtol=1e-5)
    np.testing.assert_array_equal(reward[1:], zero[1:])


def test_several_rewards_summed_or_each_on_its_own():
    rewards, group = draw(6, 2), np.asarray([0, 0, 0, 1, 1, 1])
    config = AdvantageConfig(weights=(1.0, 0.5), epsilon=0.0)
    summed = combined_advantages(rewards, group, config=config)
    wanted = group_advantages(rewards @ np.float32([1, 0.5]), group, config=config)
    np.testing.assert_allclose(summed, wanted, rtol=1e-5)

    config = AdvantageConfig(weights=(1.0, 0.5), epsilon=0.0, combine="each")
    found = np.asarray(combined_advantages(rewards, group, config=config))
    scaled = rewards * np.float32([1, 1000])
    again = combined_advantages(scaled, group, config=config)
    np.testing.assert_allclose(found, again, rtol=1e-4, atol=1e-6)
    assert found.std(ddof=1) == pytest.approx(1, rel=1e-5)


PERCEPTION, REASONING = [2.2, 1.0, 2.0, 1.0], [2.2, 1.0, 1.7, 2.0]


def process_aware(perception, reasoning):
    rewards = jnp.stack([jnp.asarray(perception), jnp.asarray(reasoning)], axis=1)
    return segment_advantages(rewards, jnp.zeros(4, jnp.int32), config=VIDEO_R1)


def test_segments_have_advantages_of_their_own():
    """VideoP2R 5, with unbiased deviations plus 1e-4; worked by hand to four digits."""
    found = process_aware(PERCEPTION, REASONING)
    np.testing.assert_allclose(found[:, 0], [1.015, -0.8588, 0.7027, -0.8588], atol=5e-5)
    np.testing.assert_allclose(found[:, 1], [0.9042, -1.3802, -0.0476, 0.5235], atol=5e-5)
    together = group_advantages(
        np.add(PERCEPTION, REASONING).astype(np.float32), np.zeros(4, np.int32), config=VIDEO_R1
    )
    np.testing.assert_allclose(together, [1.0982, -1.2446, 0.4149, -0.2685], atol=5e-5)


def test_segments_do_not_hear_of_each_other():
    found, other = process_aware(PERCEPTION, REASONING), process_aware([0, 5, 1, 3.0], REASONING)
    np.testing.assert_array_equal(found[:, 1], other[:, 1])
    collapsed = process_aware(PERCEPTION, [1.0] * 4)
    assert np.all(collapsed[:, 1] == 0)
    assert np.all(collapsed[:, 0] != 0)


def test_without_separation_all_segments_share_the_sum():
    rewards = jnp.stack([jnp.asarray(PERCEPTION), jnp.asarray(REASONING)], axis=1)
    group = jnp.zeros(4, jnp.int32)
    process = jax.jit(advantages.process_advantages, static_argnames=("config", "separate"))
    shared = process(rewards, group, config=VIDEO_R1, separate=False)
    np.testing.assert_allclose(shared[:, 0], [1.0982, -1.2446, 0.4149, -0.2685], atol=5e-5)
    np.testing.assert_array_equal(shared[:, 0], shared[:, 1])
    apart = process(rewards, group, config=VIDEO_R1)
    np.testing.assert_array_equal(apart, segment_advantages(rewards, group, config=VIDEO_R1))
    answers_only = dataclasses.replace(VIDEO_R1, weights=(0.0, 1.0))
    plain = process(rewards, group, config=answers_only, separate=False)
    np.testing.assert_allclose(plain[:, 0], apart[:, 1], rtol=1e-6)


def test_collapsed_groups_are_counted():
    rewards = np.asarray([1, 0, 1, 1 / 3, 1 / 3, 1 / 3, 2, np.nan, 2], np.float32)
    group = np.asarray([0, 0, 0, 1, 1, 1, 2, 2, 2])
    found = jax.jit(advantages.collapsed_groups)(rewards, group)
    assert (float(found.sum), float(found.weight)) == pytest.approx((2, 3))


def test_every_token_gets_the_advantage_of_its_segment():
    of_segments = np.asarray([[1.0, 2.0], [3.0, 4.0]], np.float32)
    segment = np.asarray([[0, 0, 1, -1], [1, 0, -1, -1]])
    found = advantages.over_tokens(jnp.asarray(of_segments), jnp.asarray(segment))
    np.testing.assert_array_equal(found, [[1, 1, 2, 0], [4, 3, 0, 0]])


# One row of three turns between observations, one of a single turn, one that never spoke.
MASK = np.asarray(
    [
        [0, 1, 1, 1, 0, 0, 1, 1, 0, 1, 0, 0],
        [0, 0, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0],
        [0] * 12,
    ],
    bool,
)
ENDS = np.asarray(
    [[0, 0, 0, 1, 0, 0, 0, 1, 0, 1, 0, 0], [0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0], [0] * 12], bool
)
VALUES = draw(3, 12, seed=2)
REWARDS = np.where(ENDS, draw(3, 12, seed=3), 0).astype(np.float32)


def by_hand(rewards, values, gamma, lam):
    """Of one row, as Schulman et al. have it."""
    following = [*values, 0][1:]
    steps = [r + gamma * n - v for r, v, n in zip(rewards, values, following, strict=True)]
    return [
        sum((gamma * lam) ** (j - i) * steps[j] for j in range(i, len(steps)))
        for i in range(len(steps))
    ]


def credit(estimator, *, whiten=False, **changes):
    numbers = {"gamma": 0.9, "lam": 0.8, "turn_gamma": 0.7, "turn_lam": 0.6} | changes
    config = CreditConfig(estimator=estimator, whiten=whiten, **numbers)
    return token_credit(REWARDS, VALUES, mask=MASK, ends=ENDS, config=config)


def test_plain_estimation_steps_through_everything():
    found = credit("plain")
    for row in range(3):
        wanted = np.asarray(by_hand(REWARDS[row], VALUES[row], 0.9, 0.8))
        np.testing.assert_allclose(found.advantages[row], wanted * MASK[row], atol=1e-6)


def test_masked_estimation_is_that_of_the_policys_own_tokens():
    found = credit("masked")
    for row in range(3):
        own = MASK[row]
        wanted = by_hand(REWARDS[row][own], VALUES[row][own], 0.9, 0.8)
        np.testing.assert_allclose(found.advantages[row][own], wanted, atol=1e-6)
        np.testing.assert_allclose(found.returns[row][own], wanted + VALUES[row][own], atol=1e-6)
    np.testing.assert_array_equal(np.asarray(found.advantages)[~MASK], 0)


def test_turn_estimation_gives_a_turn_one_advantage():
    found = credit("turn")
    for row in range(2):
        ends = np.flatnonzero(ENDS[row])
        wanted = by_hand(REWARDS[row][ends], VALUES[row][ends], 0.7, 0.6)
        own = np.flatnonzero(MASK[row])
        turn = np.searchsorted(ends, own)
        np.testing.assert_allclose(found.advantages[row][own], np.take(wanted, turn), atol=1e-6)
        np.testing.assert_allclose(found.returns[row][ends], wanted + VALUES[row][ends], atol=1e-6)
    np.testing.assert_array_equal(found.asked, ENDS)


def test_bilevel_estimation_restarts_in_every_turn():
    found = credit("bilevel")
    for row in range(2):
        ends = np.flatnonzero(ENDS[row])
        worth = by_hand(REWARDS[row][ends], VALUES[row][ends], 0.7, 0.6) + VALUES[row][ends]
        start = 0
        for end, reward in zip(ends, worth, strict=True):
            own = np.flatnonzero(MASK[row, start : end + 1]) + start
            rewards = np.append(REWARDS[row][own[:-1]], reward)
            wanted = by_hand(rewards, VALUES[row][own], 0.9, 0.8)
            np.testing.assert_allclose(found.advantages[row][own], wanted, atol=1e-6)
            start = end + 1


@pytest.mark.parametrize("estimator", ["masked", "turn", "bilevel"])
def test_observations_cost_nothing(estimator):
    """Three tokens of text between the turns, or thirty: the policy's credit is the same."""
    found = credit(estimator)
    rng = np.random.default_rng(4)

    def wide(x, fill):
        return np.insert(x, [6] * 27, fill, axis=1).astype(x.dtype)

    config = CreditConfig(
        estimator=estimator, gamma=0.9, lam=0.8, turn_gamma=0.7, turn_lam=0.6, whiten=False
    )
    mask = wide(MASK, False)
    longer = token_credit(
        wide(REWARDS, 0),
        wide(VALUES, rng.normal(size=(3, 27))),
        mask=mask,
        ends=wide(ENDS, False),
        config=config,
    )
    for name in ("advantages", "returns"):
        short, long = np.asarray(getattr(found, name)), np.asarray(getattr(longer, name))
        np.testing.assert_allclose(long[mask], short[MASK], atol=1e-6)


@pytest.mark.parametrize("estimator", ["plain", "masked", "turn", "bilevel"])
def test_all_discounts_one_leaves_the_return_to_go(estimator):
    found = credit(estimator, gamma=1.0, lam=1.0, turn_gamma=1.0, turn_lam=1.0)
    to_go = np.cumsum(REWARDS[:, ::-1], axis=1)[:, ::-1]
    asked = np.asarray(found.asked)
    np.testing.assert_allclose(np.asarray(found.returns)[asked], to_go[asked], atol=1e-5)


@pytest.mark.parametrize("estimator", ["plain", "masked", "turn", "bilevel"])
def test_whitened_advantages_have_mean_zero_and_variance_one(estimator):
    found = credit(estimator, whiten=True)
    kept = np.asarray(found.advantages)[np.asarray(found.asked)]
    assert kept.mean() == pytest.approx(0, abs=1e-6)
    assert kept.std(ddof=1) == pytest.approx(1, rel=1e-5)


def test_a_batch_without_tokens_stays_finite():
    nothing = np.zeros_like(MASK)
    found = token_credit(REWARDS, VALUES, mask=nothing, ends=nothing, config=CreditConfig())
    np.testing.assert_array_equal(found.advantages, 0)
    np.testing.assert_array_equal(found.returns, 0)
