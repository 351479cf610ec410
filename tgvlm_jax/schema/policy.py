"""Advantages, credit and the policy loss of reinforcement learning."""

import dataclasses
from typing import Literal

from tgvlm_jax.types import InputError


@dataclasses.dataclass(frozen=True, kw_only=True)
class AdvantageConfig:
    """From the rewards of a group of answers to one prompt to their advantages (VideoSSR 8).

    `tgvlm_jax.objectives.advantages.PRESETS` has the settings of other libraries by name.

    Attributes:
        baseline: what is subtracted, the "mean" of the group or the mean of the "others" in it.
        scale: what the difference is divided by, the standard deviation (n - 1) of the "group" or
            of the whole "batch", or "none".
        epsilon: added to the deviation.
        least_variance: the variance that a deviation has at least.
        combine: where an answer has several rewards: "sum" adds them and normalises once; "each"
            normalises every one, adds, and normalises over the batch (GDPO).
        weights: of the rewards in that sum; empty weighs them alike.
        lone: what an answer without company gets, "zero" or its "reward" as it is.
    """

    baseline: Literal["mean", "others"] = "mean"
    scale: Literal["group", "batch", "none"] = "group"
    epsilon: float = 1e-6
    least_variance: float = 0.0
    combine: Literal["sum", "each"] = "sum"
    weights: tuple[float, ...] = ()
    lone: Literal["zero", "reward"] = "zero"


@dataclasses.dataclass(frozen=True, kw_only=True)
class CreditConfig:
    """Generalised advantage estimation over the tokens of several turns (Video-MTR 2.6).

    Attributes:
        estimator: "plain" steps through every position, "masked" through the policy's own tokens,
            "turn" from turn to turn, "bilevel" from turn to turn and then through each turn.
        gamma, lam: discount and trace of a token step. turn_gamma, turn_lam: of a turn.
        whiten: advantages get mean 0 and variance 1 over the batch.
    """

    estimator: Literal["plain", "masked", "turn", "bilevel"] = "bilevel"
    gamma: float = 1.0
    lam: float = 1.0
    turn_gamma: float = 0.95
    turn_lam: float = 1.0
    whiten: bool = True


@dataclasses.dataclass(frozen=True, kw_only=True)
class PolicyConfig:
    """The one policy-gradient loss, every published variant by data (VideoSSR 8).

    `tgvlm_jax.objectives.policy.PRESETS` has the variants by name.

    Attributes:
        ratio: new over old probability of a "token"; the geometric mean over the "sequence", one
            value with one gradient (GSPO); or "sequence_token", its value with the gradient of the
            token (GSPO-token).
        surrogate: how the ratio meets the advantage: "clip" (PPO), "cispo", "sapo", "vespo", or
            "geometric" (GMPO).
        clip_low, clip_high: the ratio counts within [1 - low, 1 + high]; log ratios within
            [-low, high] for "geometric".
        dual_clip: where the advantage is negative the ratio counts up to this; 0 has no bound.
        log_ratio_limit: largest size of a token's log ratio; 0 has no bound, and float32 then
            overflows at 88.
        sequence_limit: largest log ratio of a sequence; 0 has no bound.
        sapo_temperature: for advantages above zero, and for the rest.
        vespo_shape: (k, lambda) for advantages from zero up, then for those below.
        kl: weight of the divergence from the reference policy.
        kl_estimator: per token k1 = d, abs = |d|, k2 = d^2 / 2 or k3 = e^-d + d - 1, where d is new
            minus reference log-probability.
        kl_limit: largest size of k3; 0 has no bound. kl_gap: largest size of d that any estimate
            counts, 0 for no bound (Video-R1 has 10).
        kl_ratio: the estimate is weighted with the ratio, which makes it unbiased off-policy.
        entropy: weight of an entropy bonus.
        aggregation: the mean over tokens ("token_mean"); over sequences of their means
            ("sequence_mean") or sums ("sequence_sum"); over groups of the mean over their tokens
            ("group_mean"); over sequences of the sum over a fixed length ("length_mean",
            Dr. GRPO), or the sum of that ("length_sum").
        length: that fixed length; 0 takes the padded one.
        count_empty: answers without a token count as sequences.
    """

    ratio: Literal["token", "sequence", "sequence_token"] = "token"
    surrogate: Literal["clip", "cispo", "sapo", "vespo", "geometric"] = "clip"
    clip_low: float = 0.2
    clip_high: float = 0.2
    dual_clip: float = 3.0
    log_ratio_limit: float = 20.0
    sequence_limit: float = 0.0
    sapo_temperature: tuple[float, float] = (1.0, 1.05)
    vespo_shape: tuple[tuple[float, float], tuple[float, float]] = ((2.0, 3.0), (3.0, 2.0))
    kl: float = 0.0
    kl_estimator: Literal["k1", "abs", "k2", "k3"] = "k3"
    kl_limit: float = 10.0
    kl_gap: float = 0.0
    kl_ratio: bool = False
    entropy: float = 0.0
    aggregation: Literal[
        "token_mean", "sequence_mean", "sequence_sum", "group_mean", "length_mean", "length_sum"
    ] = "token_mean"
    length: int = 0
    count_empty: bool = False

    def __post_init__(self):
        if 0 < self.dual_clip < 1 + self.clip_high:
            raise InputError(
                f"dual_clip={self.dual_clip} lies within the clip range; give at least "
                f"{1 + self.clip_high:g}, or 0 for none"
            )
