"""Advantages: how much better an answer, or a token of it, did than what was to be expected.

Two families. Group estimators compare the rewards of several answers to one prompt and need no
critic (VideoSSR 8). Generalised advantage estimation compares with a critic's values along the
tokens of several turns (Video-MTR 2.6); tokens that the policy did not sample, such as the text of
an observation, are stepped over and cost no discount.

Rows need not be sorted: a group is a set of rows with the same id. Everything runs inside jit.
"""

import dataclasses
from typing import Annotated, Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from tgvlm_jax.objectives.sft import Term
from tgvlm_jax.schema import AdvantageConfig, CreditConfig
from tgvlm_jax.types import pytree

PRESETS = {
    "verl": AdvantageConfig(lone="reward"),
    "verl_vectorized": AdvantageConfig(least_variance=1e-6, lone="reward"),
    "verl_dr_grpo": AdvantageConfig(scale="none", lone="reward"),
    "verl_rloo": AdvantageConfig(baseline="others", scale="none", lone="reward"),
    "trl": AdvantageConfig(epsilon=1e-4),
    "trl_batch": AdvantageConfig(epsilon=1e-4, scale="batch"),
    "trl_none": AdvantageConfig(scale="none"),
    "trl_gdpo": AdvantageConfig(epsilon=1e-4, combine="each"),
    "tunix": AdvantageConfig(lone="reward"),
    "tunix_dr_grpo": AdvantageConfig(scale="none", lone="reward"),
    "tunix_rloo": AdvantageConfig(baseline="others", scale="none", lone="reward"),
    "video_r1": AdvantageConfig(epsilon=1e-4),
}
"""Estimators of other libraries by name; VideoP2R's code descends from Video-R1."""


def group_advantages(
    rewards: Float[Array, "b"], group: Int[Array, "b"], *, config: AdvantageConfig
) -> Float[Array, "b"]:
    """Advantage of every answer over its group, as `config` says.

    Equal rewards give exactly zero. A reward that is not finite counts as absent: its answer gets
    zero and the others are compared without it.

    Args:
        rewards: one an answer. group: id of the prompt it answers.
    """
    there = jnp.isfinite(rewards)
    centred, count = _centred(rewards, group)
    lone = count == 1
    if config.baseline == "others":
        centred = centred * count / jnp.maximum(count - 1, 1)
    if config.scale == "group":
        centred = centred / _deviation(rewards, group, config)
    elif config.scale == "batch":
        centred = centred / _deviation(rewards, jnp.zeros_like(group), config)
    if config.lone == "reward":
        # A mean of 0 and a deviation of 1, in the words of verl.
        scale = 1 + config.epsilon if config.scale == "group" else 1.0
        centred = jnp.where(lone, rewards / scale, centred)
    return jnp.where(there, centred, 0)


def combined_advantages(
    rewards: Float[Array, "b r"], group: Int[Array, "b"], *, config: AdvantageConfig
) -> Float[Array, "b"]:
    """Advantages where each answer has `r` rewards, weighted and combined as `config` says.

    With "sum" an absent reward (not finite) makes the answer absent, with "each" it counts as zero
    advantage in that reward.
    """
    weights = jnp.asarray(config.weights or (1.0,) * rewards.shape[1], rewards.dtype)
    if config.combine == "sum":
        return group_advantages(jnp.sum(rewards * weights, axis=1), group, config=config)
    summed = jnp.sum(segment_advantages(rewards, group, config=config) * weights, axis=1)
    everyone = jnp.zeros_like(group)
    centred, _ = _centred(summed, everyone)
    return centred / _deviation(summed, everyone, config)


def segment_advantages(
    rewards: Float[Array, "b s"], group: Int[Array, "b"], *, config: AdvantageConfig
) -> Float[Array, "b s"]:
    """Advantages of each segment of the answers, compared within the group segment by segment.

    VideoP2R 5 (process-aware): perception and reasoning each have a reward, a mean and a deviation.
    """

    def one(rewards: Float[Array, "b"]) -> Float[Array, "b"]:
        return group_advantages(rewards, group, config=config)

    return jax.vmap(one, in_axes=1, out_axes=1)(rewards)


def process_advantages(
    rewards: Float[Array, "b s"],
    group: Int[Array, "b"],
    *,
    config: AdvantageConfig,
    separate: bool = True,
) -> Float[Array, "b s"]:
    """Advantages of each segment: its own, or all alike from the summed rewards.

    Not `separate` is the ablation of VideoP2R, and with `config.weights` (0, 1) or (1, 0) those
    that leave out one of its rewards; without the first it is plain GRPO.
    """
    if separate:
        return segment_advantages(rewards, group, config=config)
    whole = combined_advantages(rewards, group, config=config)
    return jnp.broadcast_to(whole[:, None], rewards.shape)


def collapsed_groups(rewards: Float[Array, "b"], group: Int[Array, "b"]) -> Term:
    """How many groups have equal rewards and so no advantage, and how many there are."""
    same = _same(rewards, group)
    least = jnp.min(jnp.where(same, rewards, jnp.inf), axis=1)
    most = jnp.max(jnp.where(same, rewards, -jnp.inf), axis=1)
    # Each row stands for its share of its group.
    share = 1 / jnp.sum(group[:, None] == group, axis=1).astype(rewards.dtype)
    return Term(sum=jnp.sum(jnp.where(most <= least, share, 0)), weight=jnp.sum(share))


def over_tokens(advantages: Float[Array, "b s"], segment: Int[Array, "b t"]) -> Float[Array, "b t"]:
    """The advantage of the segment that each token belongs to, 0 where that is negative."""
    found = jnp.take_along_axis(advantages, jnp.maximum(segment, 0), axis=1)
    return jnp.where(segment >= 0, found, 0)


def _centred(
    rewards: Float[Array, "b"], group: Int[Array, "b"]
) -> tuple[Float[Array, "b"], Float[Array, "b"]]:
    """Rewards minus their group's mean, and how many the group has; absent ones left out.

    Differences are taken from the group's highest reward first: equal rewards then cancel exactly,
    where a float32 mean of thirds is off by enough to be blown up by a tiny deviation.
    """
    same = _same(rewards, group)
    count = jnp.sum(same, axis=1).astype(rewards.dtype)
    top = jnp.max(jnp.where(same, rewards, -jnp.inf), axis=1)
    below = jnp.where(jnp.isfinite(rewards), rewards - top, 0)
    mean = jnp.sum(jnp.where(same, below, 0), axis=1) / jnp.maximum(count, 1)
    return below - mean, count


def _deviation(
    rewards: Float[Array, "b"], group: Int[Array, "b"], config: AdvantageConfig
) -> Float[Array, "b"]:
    """Standard deviation of each row's group with n - 1, bounded below as `config` says."""
    centred, count = _centred(rewards, group)
    squares = jnp.sum(jnp.where(_same(rewards, group), centred**2, 0), axis=1)
    variance = squares / jnp.maximum(count - 1, 1)
    return jnp.sqrt(jnp.maximum(variance, config.least_variance)) + config.epsilon


def _same(rewards: Float[Array, "b"], group: Int[Array, "b"]) -> Bool[Array, "b b"]:
    """Which rows, across, are of the same group as a row, down, and have a reward."""
    return (group[:, None] == group) & jnp.isfinite(rewards)


@pytree
@dataclasses.dataclass(frozen=True, kw_only=True)
class Credit:
    """What a critic-based estimator says about every token.

    Attributes:
        advantages: for the policy; 0 outside the mask.
        returns: what the critic should have said; 0 where it is not asked.
        asked: the tokens whose value is trained.
    """

    advantages: Annotated[Any, "float b t"]
    returns: Annotated[Any, "float b t"]
    asked: Annotated[Any, "bool b t"]


def token_credit(
    rewards: Float[Array, "b t"],
    values: Float[Array, "b t"],
    *,
    mask: Bool[Array, "b t"],
    ends: Bool[Array, "b t"],
    config: CreditConfig,
) -> Credit:
    """Generalised advantage estimation (Video-MTR 2.6).

    Args:
        rewards: at the token after which they were given; elsewhere 0.
        values: of the critic before each token.
        mask: tokens that the policy sampled. ends: the last of each turn among them.
    """
    step, turn = (config.gamma, config.lam), (config.turn_gamma, config.turn_lam)
    asked = mask
    match config.estimator:
        case "plain":
            advantages = _gae(rewards, values, jnp.ones_like(mask), *step)
            returns = advantages + values
        case "masked":
            advantages = _gae(rewards, values, mask, *step)
            returns = advantages + values
        case "turn":
            asked = ends
            at_ends = _gae(rewards, values, ends, *turn)
            returns = at_ends + values
            advantages = _back_over_turns(at_ends, ends)
        case "bilevel":
            # What a turn is worth stands at its end as a reward that no later turn adds to.
            worth = _gae(rewards, values, ends, *turn) + values
            rewards = jnp.where(ends, worth, rewards)
            advantages = _gae(rewards, values, mask, *step, restart=ends)
            returns = advantages + values
    if config.whiten:
        advantages = whiten(advantages, asked)
    return Credit(
        advantages=jnp.where(mask, advantages, 0),
        returns=jnp.where(asked, returns, 0),
        asked=asked,
    )


def whiten(values: Float[Array, "b t"], mask: Bool[Array, "b t"]) -> Float[Array, "b t"]:
    """Mean 0 and variance 1 (n - 1) over all masked values of the batch."""
    kept = jnp.where(mask, values, 0)
    count = jnp.maximum(jnp.sum(mask), 2).astype(values.dtype)
    mean = jnp.sum(kept) / count
    variance = jnp.sum(jnp.where(mask, (values - mean) ** 2, 0)) / (count - 1)
    return (values - mean) * jax.lax.rsqrt(variance + 1e-8)


def _gae(
    rewards: Float[Array, "b t"],
    values: Float[Array, "b t"],
    steps: Bool[Array, "b t"],
    gamma: float,
    lam: float,
    *,
    restart: Bool[Array, "b t"] | None = None,
) -> Float[Array, "b t"]:
    """Backwards over the positions that are steps; the rest pass on what stands behind them.

    A position that restarts sees nothing behind it.
    """
    restart = jnp.zeros_like(steps) if restart is None else restart

    def back(behind, now):
        reward, value, step, alone = now
        advantage, next_value = (jnp.where(alone, 0, one) for one in behind)
        advantage = reward + gamma * next_value - value + gamma * lam * advantage
        kept = (jnp.where(step, advantage, behind[0]), jnp.where(step, value, behind[1]))
        return kept, jnp.where(step, advantage, 0)

    nothing = (jnp.zeros_like(values[:, 0]), jnp.zeros_like(values[:, 0]))
    across = jax.tree.map(lambda x: jnp.moveaxis(x, 1, 0), (rewards, values, steps, restart))
    _, advantages = jax.lax.scan(back, nothing, across, reverse=True)
    return jnp.moveaxis(advantages, 0, 1)


def _back_over_turns(values: Float[Array, "b t"], ends: Bool[Array, "b t"]) -> Float[Array, "b t"]:
    """The value at the end of the turn that each position lies in; 0 behind the last one."""

    def back(behind, now):
        value, end = now
        kept = jnp.where(end, value, behind)
        return kept, kept

    across = jax.tree.map(lambda x: jnp.moveaxis(x, 1, 0), (values, ends))
    _, spread = jax.lax.scan(back, jnp.zeros_like(values[:, 0]), across, reverse=True)
    return jnp.moveaxis(spread, 0, 1)
