"""The one policy-gradient loss: ratio, bound, divergence and average, each by data (VideoSSR 8).

Every published variant is a `PolicyConfig`; the estimator of the advantages is chosen elsewhere.
Log-probabilities are those at the sampling temperature. The loss comes as (sum, weight) terms:
what a row's tokens count (`row_scale`) and what the sum is divided by (`weights`) are taken from
the whole batch, so that micro-batches add up to the undivided gradient.
"""

import dataclasses
import math
from typing import Annotated, Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from tgvlm_jax.objectives.sft import Term
from tgvlm_jax.schema import PolicyConfig
from tgvlm_jax.types import pytree

_TRL = PolicyConfig(dual_clip=0.0, log_ratio_limit=0.0, kl_limit=0.0, count_empty=True)
_TUNIX = PolicyConfig(dual_clip=0.0, kl_limit=0.0)
_GSPO = PolicyConfig(
    ratio="sequence_token",
    dual_clip=0.0,
    log_ratio_limit=0.0,
    sequence_limit=10.0,
    aggregation="sequence_mean",
    count_empty=True,
)


def _vary(config: PolicyConfig, **changes: Any) -> PolicyConfig:
    return dataclasses.replace(config, **changes)


PRESETS = {
    "verl": PolicyConfig(),
    "verl_gspo": _GSPO,
    "gspo": _vary(_GSPO, clip_low=3e-4, clip_high=4e-4),
    "gmpo": _vary(_GSPO, surrogate="geometric", ratio="sequence", sequence_limit=0.0),
    "videossr": PolicyConfig(kl=1e-3),
    "grpo": _vary(_TRL, aggregation="sequence_mean"),
    "bnpo": _TRL,
    "dapo": _vary(_TRL, clip_high=0.28),
    "dr_grpo": _vary(_TRL, aggregation="length_mean"),
    "cispo": _vary(_TRL, surrogate="cispo", clip_high=4.0),
    "sapo": _vary(_TRL, surrogate="sapo", aggregation="sequence_mean"),
    "vespo": _vary(_TRL, surrogate="vespo"),
    "luspo": _vary(_TRL, ratio="sequence", aggregation="sequence_sum"),
    "tunix": _vary(_TUNIX, aggregation="sequence_mean", kl=0.04, kl_estimator="k1"),
    "video_r1": _vary(_TRL, aggregation="sequence_mean", kl=0.04, kl_gap=10.0, count_empty=False),
    "tunix_gspo": _vary(_GSPO, log_ratio_limit=20.0, kl_limit=0.0, count_empty=False),
}
"""Variants by name. dapo and bnpo differ from verl in what they leave out; here the weight of a
token mean is always that of the whole batch."""


@pytree
@dataclasses.dataclass(frozen=True, kw_only=True)
class Sampled:
    """Answers as the loss takes them; nothing in here has a gradient.

    Attributes:
        old_log_probs: of the policy that sampled, at each token.
        ref_log_probs: of the reference policy; None where `PolicyConfig.kl` is 0.
        advantages: of each token.
        mask: tokens that the policy sampled and that count.
        scale: what the tokens of a row count, from `row_scale` of the whole batch.
        policy_scale: what each token counts in the policy term instead; None for no difference.
    """

    old_log_probs: Annotated[Any, "float b t"]
    ref_log_probs: Annotated[Any, "float b t"]
    advantages: Annotated[Any, "float b t"]
    mask: Annotated[Any, "bool b t"]
    scale: Annotated[Any, "float b"]
    policy_scale: Annotated[Any, "float b t"] = None


def row_scale(
    mask: Bool[Array, "b t"], group: Int[Array, "b"], *, config: PolicyConfig
) -> Float[Array, "b"]:
    """What each token of a row counts in the sum (the row's own part of the aggregation).

    Args:
        mask: of the whole batch. group: id of the prompt that a row answers.
    """
    tokens = jnp.sum(mask, axis=1).astype(jnp.float32)
    match config.aggregation:
        case "sequence_mean":
            return 1 / jnp.maximum(tokens, 1)
        case "group_mean":
            same = group[:, None] == group
            return 1 / jnp.maximum(jnp.sum(jnp.where(same, tokens, 0), axis=1), 1)
        case "length_mean" | "length_sum":
            return jnp.full_like(tokens, 1 / (config.length or mask.shape[1]))
    return jnp.ones_like(tokens)


def segment_scale(
    mask: Bool[Array, "b t"], segment: Int[Array, "b t"], *, segments: int
) -> Float[Array, "b t"]:
    """What each token of the policy term counts where the means of segments are added up.

    The letter of VideoP2R's equation 7; its lineage divides by the tokens of the answer, which
    needs no `Sampled.policy_scale`.
    """
    inside = (segment[:, None] == jnp.arange(segments)[:, None]) & mask[:, None]
    count = jnp.maximum(jnp.sum(inside, axis=2), 1).astype(jnp.float32)
    return jnp.sum(jnp.where(inside, 1 / count[..., None], 0), axis=1)


def weights(
    mask: Bool[Array, "b t"], group: Int[Array, "b"], *, config: PolicyConfig
) -> dict[str, Float[Array, ""]]:
    """What the sum of each term is divided by, taken from the whole batch."""
    filled = jnp.any(mask, axis=1)
    match config.aggregation:
        case "token_mean":
            weight = jnp.sum(mask)
        case "group_mean":
            # A group counts once, at the first of its rows that has a token.
            earlier = jnp.tri(len(group), k=-1, dtype=bool) & (group[:, None] == group) & filled
            weight = jnp.sum(filled & ~jnp.any(earlier, axis=1))
        case "length_sum":
            weight = jnp.ones(())
        case _:
            weight = jnp.asarray(len(mask)) if config.count_empty else jnp.sum(filled)
    weight = jnp.maximum(weight.astype(jnp.float32), 1)
    return dict.fromkeys(coefficients(config), weight)


def coefficients(config: PolicyConfig) -> dict[str, float]:
    """What each term counts in the total."""
    found = {"policy": 1.0, "kl": config.kl, "entropy": -config.entropy}
    return {name: value for name, value in found.items() if value or name == "policy"}


def sums(
    log_probs: Float[Array, "b t"],
    sampled: Sampled,
    *,
    config: PolicyConfig,
    entropy: Float[Array, "b t"] | None = None,
) -> dict[str, Float[Array, ""]]:
    """The loss terms of a (micro-)batch, summed.

    Args:
        log_probs: of the policy in training, at each token.
        entropy: of its next-token distribution, where `config.entropy` is not 0.
    """
    log_probs, sampled = _counted(log_probs, sampled)
    log_ratio = log_probs - sampled.old_log_probs
    ratio = _ratio(log_ratio, sampled, config)
    tokens = {"policy": _surrogate(log_probs, ratio, log_ratio, sampled, config)}
    if config.kl:
        assert sampled.ref_log_probs is not None, "config.kl wants log-probabilities of a reference"
        tokens["kl"] = divergence(log_probs, sampled.ref_log_probs, config=config)
        if config.kl_ratio:
            tokens["kl"] *= ratio
    if config.entropy:
        assert entropy is not None, "config.entropy wants the entropy of every token"
        tokens["entropy"] = entropy
    scale: jax.Array = sampled.scale[:, None]
    scales = dict.fromkeys(tokens, scale)
    if sampled.policy_scale is not None:
        scales["policy"] = sampled.policy_scale
    return {
        name: jnp.sum(jnp.where(sampled.mask, value * scales[name].astype(value.dtype), 0))
        for name, value in tokens.items()
    }


def _counted(
    log_probs: Float[Array, "b t"], sampled: Sampled
) -> tuple[Float[Array, "b t"], Sampled]:
    """Zeros outside the mask, so that what stands there reaches neither loss nor gradient."""

    def keep(x):
        return None if x is None else jnp.where(sampled.mask, x, 0)

    kept = dataclasses.replace(
        sampled,
        old_log_probs=keep(sampled.old_log_probs),
        ref_log_probs=keep(sampled.ref_log_probs),
        advantages=keep(sampled.advantages),
    )
    return jnp.where(sampled.mask, log_probs, 0), kept


def divergence(
    log_probs: Float[Array, "b t"],
    ref_log_probs: Float[Array, "b t"],
    *,
    config: PolicyConfig,
) -> Float[Array, "b t"]:
    """Per-token estimate of the divergence of the policy from the reference."""
    gap = log_probs - ref_log_probs
    if config.kl_gap:
        gap = jnp.clip(gap, -config.kl_gap, config.kl_gap)
    match config.kl_estimator:
        case "k1":
            return gap
        case "abs":
            return jnp.abs(gap)
        case "k2":
            return gap**2 / 2
    limit = config.kl_limit
    if not limit:
        return jnp.expm1(-gap) + gap
    # Cut before the exponential too: a gradient of zero times infinity is not a number.
    gap = jnp.clip(gap, -2 * limit, 2 * limit)
    return jnp.clip(jnp.expm1(-gap) + gap, -limit, limit)


def _ratio(
    log_ratio: Float[Array, "b t"], sampled: Sampled, config: PolicyConfig
) -> Float[Array, "b t"]:
    """New over old probability, of each token or of its sequence."""
    own, log_ratio = log_ratio, _cut(log_ratio, config)
    if config.surrogate == "geometric":
        bounded = jnp.clip(log_ratio, -config.clip_low, config.clip_high)
        above = sampled.advantages > 0
        log_ratio = jnp.where(
            above, jnp.minimum(log_ratio, bounded), jnp.maximum(log_ratio, bounded)
        )
    if config.ratio != "token":
        mean = _row_mean(log_ratio, sampled.mask)
        if config.ratio == "sequence":
            log_ratio = jnp.broadcast_to(mean, log_ratio.shape)
        else:
            log_ratio = own + jax.lax.stop_gradient(mean - own)
        if config.sequence_limit:
            log_ratio = jnp.minimum(log_ratio, config.sequence_limit)
    return jnp.exp(log_ratio)


def _cut(log_ratio: Float[Array, "b t"], config: PolicyConfig) -> Float[Array, "b t"]:
    limit = config.log_ratio_limit
    return jnp.clip(log_ratio, -limit, limit) if limit else log_ratio


def _surrogate(
    log_probs: Float[Array, "b t"],
    ratio: Float[Array, "b t"],
    log_ratio: Float[Array, "b t"],
    sampled: Sampled,
    config: PolicyConfig,
) -> Float[Array, "b t"]:
    """The loss of every token."""
    advantages = sampled.advantages
    match config.surrogate:
        case "clip":
            clipped = jnp.clip(ratio, 1 - config.clip_low, 1 + config.clip_high)
            loss = jnp.maximum(-advantages * ratio, -advantages * clipped)
            if config.dual_clip:
                bounded = jnp.minimum(loss, -advantages * config.dual_clip)
                loss = jnp.where(advantages < 0, bounded, loss)
            return loss
        case "cispo":
            weight = jnp.minimum(ratio, 1 + config.clip_high)
            return -jax.lax.stop_gradient(weight) * advantages * log_probs
        case "sapo":
            above, below = config.sapo_temperature
            heat = jnp.where(advantages > 0, above, below).astype(ratio.dtype)
            return -4 / heat * jax.nn.sigmoid(heat * (ratio - 1)) * advantages
        case "vespo":
            return -_vespo_weight(log_ratio, sampled, config) * advantages * log_probs
        case "geometric":
            return -_row_mean(advantages, sampled.mask) * ratio


def _vespo_weight(
    log_ratio: Float[Array, "b t"], sampled: Sampled, config: PolicyConfig
) -> Float[Array, "b t"]:
    """w^k exp(lambda (1 - w)) with w the probability ratio of the whole sequence."""
    summed = jnp.sum(log_ratio, axis=1, keepdims=True)
    log_weight = jax.lax.stop_gradient(jnp.clip(summed, math.log(1e-8), 20.0))
    up = sampled.advantages >= 0
    (k_up, lam_up), (k_down, lam_down) = config.vespo_shape
    k = jnp.where(up, k_up, k_down).astype(log_ratio.dtype)
    lam = jnp.where(up, lam_up, lam_down).astype(log_ratio.dtype)
    return jnp.exp(lam + k * log_weight - lam * jnp.exp(log_weight))


def _row_mean(values: Float[Array, "b t"], mask: Bool[Array, "b t"]) -> Float[Array, "b 1"]:
    count = jnp.maximum(jnp.sum(mask, axis=1, keepdims=True), 1).astype(values.dtype)
    return jnp.sum(jnp.where(mask, values, 0), axis=1, keepdims=True) / count


def metrics(
    log_probs: Float[Array, "b t"], sampled: Sampled, *, config: PolicyConfig
) -> dict[str, Term]:
    """What to log beside the loss, as means over tokens.

    clip_fraction: where the clipped ratio made the loss larger. dual_clip_fraction: where the bound
    for negative advantages made it smaller. old_kl: k1 divergence from the policy that sampled.
    """
    log_probs, sampled = _counted(log_probs, sampled)
    log_ratio = log_probs - sampled.old_log_probs
    ratio, advantages = _ratio(log_ratio, sampled, config), sampled.advantages
    plain = -advantages * ratio
    clipped = -advantages * jnp.clip(ratio, 1 - config.clip_low, 1 + config.clip_high)
    bound = -advantages * (config.dual_clip or jnp.inf)
    found = {
        "clip_fraction": clipped > plain,
        "dual_clip_fraction": (jnp.maximum(plain, clipped) > bound) & (advantages < 0),
        "old_kl": -_cut(log_ratio, config),
    }
    weight = jnp.sum(sampled.mask).astype(log_probs.dtype)
    return {
        name: Term(
            sum=jnp.sum(jnp.where(sampled.mask, value.astype(log_probs.dtype), 0)), weight=weight
        )
        for name, value in found.items()
    }
