"""Objectives: supervised, preference, reinforcement; and how answers are sampled."""

import dataclasses
from typing import Literal

from tgvlm_jax.schema.checks import positive
from tgvlm_jax.schema.policy import AdvantageConfig, PolicyConfig
from tgvlm_jax.schema.process import ProcessConfig
from tgvlm_jax.types import InputError

PERTURBATIONS = ("shift", "add", "delete", "merge", "distort", "repeat")


@dataclasses.dataclass(frozen=True, kw_only=True)
class SftConfig:
    """Supervised fine-tuning of D2VLM (2.3): language, grounding and consistency.

    Attributes:
        loss_on_prompt: the language term counts the prompt's text, too, as the code that VideoP2R
            descends from does (VideoP2R 3).
        grounding, consistency: weights of the two terms; 10 each in the released code.
        alpha: base of the soft frame target alpha^-distance; 2.0 as released. 0 takes the hard
            targets of the paper.
    """

    kind: Literal["sft"] = "sft"
    grounding: float = 10.0
    consistency: float = 10.0
    alpha: float = 2.0
    loss_on_prompt: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class PerturbationConfig:
    """How good answers are made worse (D2VLM 3.4).

    Attributes:
        kinds: which of `PERTURBATIONS` are drawn.
        probabilities: of each of `kinds`, alike when empty.
        strength: of a shift, the overlap (IoU) it leaves at most is 1 - strength; of a
            distortion, the share of an event's key words that change.
        moment: seconds, the shortest event that is added or left by a shift.
    """

    kinds: tuple[str, ...] = PERTURBATIONS
    probabilities: tuple[float, ...] = ()
    strength: float = 0.7
    moment: float = 1.0

    def __post_init__(self):
        unknown = [kind for kind in self.kinds if kind not in PERTURBATIONS]
        if unknown or not self.kinds:
            raise InputError(f"kinds {self.kinds}: give some of {', '.join(PERTURBATIONS)}")
        if self.probabilities and len(self.probabilities) != len(self.kinds):
            raise InputError(f"{len(self.probabilities)} probabilities for {len(self.kinds)} kinds")
        if not 0 < self.strength <= 1:
            raise InputError(f"strength={self.strength} must lie in (0, 1]")


@dataclasses.dataclass(frozen=True, kw_only=True)
class FpoConfig:
    """Factorised preference optimisation (D2VLM 3.1), and its relatives.

    Attributes:
        grounding, consistency, alpha: of the supervised terms, as in `SftConfig`.
        supervised: weight of all supervised terms; 1 as released, 0 for the preference alone.
        beta: how steeply the preference follows the margin in log-probability.
        loss: "sigmoid" (DPO's), "hinge" or "ipo".
        preference_alpha: base of the soft frame targets in the preference, 2.0 as released; 0
            takes the hard ones as printed in the paper.
        grounding_in_preference: whether spans count in the preference, beside tokens.
        reference: "none", or "base": margins are counted from those of the model without its
            adapters. With it, and without the grounding and supervised terms, this is plain DPO.
        perturbation: how the answers that are not preferred are made.
    """

    kind: Literal["fpo"] = "fpo"
    grounding: float = 10.0
    consistency: float = 10.0
    alpha: float = 2.0
    supervised: float = 1.0
    beta: float = 0.1
    loss: Literal["sigmoid", "hinge", "ipo"] = "sigmoid"
    preference_alpha: float = 2.0
    grounding_in_preference: bool = True
    reference: Literal["none", "base"] = "none"
    perturbation: PerturbationConfig = PerturbationConfig()


@dataclasses.dataclass(frozen=True, kw_only=True)
class SamplingConfig:
    """How answers are generated.

    Attributes:
        temperature: 0 takes the likeliest token.
        top_p: share of the probability that the tokens to draw from hold.
        top_k: how many of the likeliest tokens to draw from; 0 for all.
        repetition_penalty: what the logits of tokens already there are divided by where positive,
            and multiplied with where negative; 1 for none. D2VLM takes 1.2 for multiple choice.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    repetition_penalty: float = 1.0

    def __post_init__(self):
        if self.temperature < 0 or not 0 < self.top_p <= 1 or self.repetition_penalty <= 0:
            raise InputError(
                f"temperature={self.temperature}, top_p={self.top_p}, repetition_penalty="
                f"{self.repetition_penalty}: at least 0, within (0, 1], above 0"
            )
        if self.top_k < 0:
            raise InputError(f"top_k={self.top_k}: give 1 or more, or 0 for all tokens")


@dataclasses.dataclass(frozen=True, kw_only=True)
class GrpoConfig:
    """Group-relative policy optimisation on answers that a program can check (VideoSSR 5).

    Attributes:
        reward: "videossr" gives partial credit, "videossr_strict" only the very answer any;
            "grounding" is the overlap of the evidence with the truth, "worded_grounding" counts it
            only where the words are those of the truth; "process" is what `process` says.
        num_generations: answers sampled to each prompt.
        max_tokens: longest answer; all are padded to it.
        sampling: how answers are sampled. Log-probabilities are those at its temperature, before
            top-p and top-k.
        advantage, policy: from rewards to the loss.
        reference: of the divergence `policy.kl`: "base" is the model without its adapters, "copy" a
            frozen copy of the parameters that training started from (`train.init_from`).
        updates: optimiser steps on one rollout, each on its own part of the prompts.
        rollout_size: prompts sampled from at a time; 0 for all of a batch. Rewards of one part are
            computed while the device samples the next.
        reward_threads: threads that compute rewards.
        spans: weight of the policy loss of sampled spans (factorised GRPO); 0 takes the likeliest
            span and does not learn from it.
        process: rewards of the segments of an answer (VideoP2R); None with any other reward.
    """

    kind: Literal["grpo"] = "grpo"
    reward: Literal["videossr", "videossr_strict", "grounding", "worded_grounding", "process"] = (
        "videossr"
    )
    num_generations: int = 8
    max_tokens: int = 32
    sampling: SamplingConfig = SamplingConfig(temperature=1.0)
    advantage: AdvantageConfig = dataclasses.field(default_factory=AdvantageConfig)
    policy: PolicyConfig = dataclasses.field(default_factory=PolicyConfig)
    reference: Literal["none", "base", "copy"] = "none"
    updates: int = 1
    rollout_size: int = 0
    reward_threads: int = 2
    spans: float = 0.0
    process: ProcessConfig | None = None

    def __post_init__(self):
        positive(self, "num_generations", "max_tokens", "updates", "reward_threads")
        if self.num_generations < 2:
            raise InputError("num_generations=1: a group needs at least 2 to be compared")
        if self.policy.kl and self.reference == "none":
            raise InputError("policy.kl needs a reference: set objective.reference to base or copy")
        if not self.sampling.temperature or self.sampling.repetition_penalty != 1.0:
            raise InputError("sampling: GRPO needs a temperature above 0 and no repetition_penalty")
        if (self.reward == "process") != (self.process is not None):
            raise InputError("objective.reward='process' and objective.process go together")
        segments = self.process is not None and self.process.segment_norm == "segment"
        if segments and self.policy.aggregation != "sequence_mean":
            raise InputError(
                "process.segment_norm='segment' needs policy.aggregation='sequence_mean'"
            )
