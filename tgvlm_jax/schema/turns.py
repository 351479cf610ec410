"""Looking at a video turn by turn: what is shown when, and how a model learns it."""

import dataclasses
from typing import Literal

from tgvlm_jax.schema.checks import positive
from tgvlm_jax.schema.objective import SamplingConfig
from tgvlm_jax.schema.policy import AdvantageConfig, CreditConfig, PolicyConfig
from tgvlm_jax.types import InputError


@dataclasses.dataclass(frozen=True, kw_only=True)
class TurnsConfig:
    """A question about a pool of candidate frames, of which a model asks to see more (Video-MTR 1).

    Attributes:
        pool: most candidates of an annotated video; rate: candidates a second. Questions made from
            the videos themselves have clips of `data.frames` for a pool.
        first, each: frames shown at first, and at most for each retrieval.
        turns: answers of a conversation at most, the last of which should answer the question.
        tokens: what an observation is padded to; the first prompt has `data.prompt_tokens`.
        hidden: marks that are made up lie between so many frames, evenly spread; 0: between those
            shown at first, none of which then shows one.
        prompts: "full" says in every turn what may be done and how (Video-MTR 1.5); "short" shows
            frames with their numbers, and asks once, for a small model that is trained on it.
    """

    pool: int = 64
    rate: float = 1.0
    first: int = 16
    each: int = 8
    turns: int = 3
    tokens: int = 512
    hidden: int = 0
    prompts: Literal["full", "short"] = "full"

    def __post_init__(self):
        positive(self, "pool", "first", "each", "turns", "tokens")


@dataclasses.dataclass(frozen=True, kw_only=True)
class PpoConfig:
    """Policy optimisation over conversations of several turns (Video-MTR 2.6); wants `data.turns`.

    Attributes:
        reward: rules of turns, gate and bootstrap by name (`tgvlm_jax.rewards.videomtr.PRESETS`).
        baseline: "critic" estimates advantages with the critic of `model.critic`; "group" compares
            the conversations that begin with one prompt, each by the sum of its rewards (GRPO).
        credit: estimator with a critic. group: estimator without.
        num_generations: conversations to each prompt.
        max_tokens: longest answer of a turn.
        sampling: how answers are sampled. Log-probabilities are those at its temperature, before
            top-p and top-k.
        policy: the loss. Its divergence is a term of the loss; `kl_reward` is the weight of one
            that is taken off the reward of every token (k1).
        reference: as in `GrpoConfig`; for either divergence.
        value: weight of the critic's loss. value_clip: see `objectives.critic.value_terms`.
        updates: optimiser steps on one rollout, each on its own part of the prompts.
    """

    kind: Literal["ppo"] = "ppo"
    reward: Literal["paper", "released"] = "paper"
    baseline: Literal["critic", "group"] = "critic"
    credit: CreditConfig = dataclasses.field(default_factory=CreditConfig)
    group: AdvantageConfig = dataclasses.field(default_factory=AdvantageConfig)
    num_generations: int = 2
    max_tokens: int = 512
    sampling: SamplingConfig = dataclasses.field(
        default_factory=lambda: SamplingConfig(temperature=0.7, top_p=0.95)
    )
    policy: PolicyConfig = dataclasses.field(default_factory=PolicyConfig)
    kl_reward: float = 0.0
    reference: Literal["none", "base", "copy"] = "none"
    value: float = 1.0
    value_clip: float = 0.5
    updates: int = 1

    def __post_init__(self):
        positive(self, "num_generations", "max_tokens", "updates")
        if self.baseline == "group" and self.num_generations < 2:
            raise InputError("num_generations=1: a group needs at least 2 to be compared")
        if (self.policy.kl or self.kl_reward) and self.reference == "none":
            raise InputError(
                "policy.kl and kl_reward need a reference: set objective.reference to base or copy"
            )
        if not self.sampling.temperature or self.sampling.repetition_penalty != 1.0:
            raise InputError("sampling: PPO needs a temperature above 0 and no repetition_penalty")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImitateConfig:
    """Conversations that a script leads, learned by likelihood; wants `data.turns`.

    For weights that cannot hold a conversation yet. The script looks once, where turns allow, and
    then gives the right answer.

    Attributes:
        right: share of the looks that go where the answer is; the others go anywhere.
        max_tokens: longest answer of a turn.
    """

    kind: Literal["imitate"] = "imitate"
    right: float = 0.5
    max_tokens: int = 32

    def __post_init__(self):
        positive(self, "max_tokens")
        if not 0 <= self.right <= 1:
            raise InputError(f"right={self.right} must lie in [0, 1]")
