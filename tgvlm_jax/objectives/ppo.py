"""Policy optimisation over conversations of several turns, with or without critic (Video-MTR 2.6).

The prompt is read once and all conversations of its group follow it, observations included, in one
pass (`VideoLanguageModel.follow`). Only what the policy wrote counts, in the loss as in credit.

    rewards of turns -> a reward at the end of each turn, less the divergence of every token
        -> `advantages.token_credit` with the critic's values, or one advantage a conversation
        -> the one policy loss, and the critic's
"""

import dataclasses
from typing import Annotated, Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from tgvlm_jax.models.parameters import Critic
from tgvlm_jax.models.vlm import VideoLanguageModel
from tgvlm_jax.objectives import advantages, policy
from tgvlm_jax.objectives.advantages import Credit
from tgvlm_jax.objectives.critic import value_terms
from tgvlm_jax.objectives.grpo import flat, groups
from tgvlm_jax.objectives.policy import Sampled
from tgvlm_jax.ops.cross_entropy import token_log_probs
from tgvlm_jax.schema import Experiment, ImitateConfig, PpoConfig
from tgvlm_jax.types import Prompt, pytree

_SHOWN = ("clip_fraction", "dual_clip_fraction", "old_kl")


@pytree
@dataclasses.dataclass(frozen=True, kw_only=True)
class TurnBatch:
    """Prompts with the conversations that begin with them; everything starts with (prompt, answer).

    Attributes:
        text: all that follows the prompt. own: tokens that the policy wrote and that count.
        log_probs: of own tokens by the policy that wrote them. ref_log_probs: by the reference,
            None without one.
        credit: of each token. old_values: of the critic; None without one.
    """

    prompt: Prompt
    text: Annotated[Any, "Prompt b g ..."]
    own: Annotated[Any, "bool b g t"]
    log_probs: Annotated[Any, "float32 b g t"]
    ref_log_probs: Annotated[Any, "float32 b g t | None"] = None
    credit: Annotated[Any, "Credit b g t | None"] = None
    old_values: Annotated[Any, "float32 b g t | None"] = None


def coefficients(experiment: Experiment) -> dict[str, float]:
    """What each term counts in the total; some are shown, not learned."""
    config = experiment.objective
    if isinstance(config, ImitateConfig):
        return {"language": 1.0}
    assert isinstance(config, PpoConfig)
    found = {**policy.coefficients(config.policy), **dict.fromkeys(_SHOWN, 0.0)}
    if config.baseline == "critic":
        found |= {"value": config.value, "value_clip_fraction": 0.0}
    return found


def weights(batch: TurnBatch, *, config: PpoConfig | ImitateConfig) -> dict[str, Float[Array, ""]]:
    """What each sum is divided by, taken from the whole batch."""
    own = flat(batch.own)
    tokens = jnp.maximum(jnp.sum(own).astype(jnp.float32), 1)
    if isinstance(config, ImitateConfig):
        return {"language": tokens}
    found = policy.weights(own, groups(batch.log_probs[..., 0]), config=config.policy)
    found |= dict.fromkeys(_SHOWN, tokens)
    if config.baseline == "critic":
        asked = jnp.maximum(jnp.sum(batch.credit.asked).astype(jnp.float32), 1)
        found |= dict.fromkeys(("value", "value_clip_fraction"), asked)
    return found


def sums(
    model: VideoLanguageModel,
    batch: TurnBatch,
    *,
    config: PpoConfig | ImitateConfig,
    critic: Critic | None,
) -> dict[str, Float[Array, ""]]:
    """The loss terms of a (micro-)batch, summed."""
    text, own = jax.tree.map(flat, batch.text), flat(batch.own)
    final = model.follow(model.prefill(batch.prompt), text).final
    if isinstance(config, ImitateConfig):
        found = written(model, final, text.tokens, temperature=1.0)
        return {"language": -jnp.sum(jnp.where(own, found, 0))}
    log_probs = written(model, final, text.tokens, temperature=config.sampling.temperature)
    group = groups(batch.log_probs[..., 0])
    sampled = Sampled(
        old_log_probs=flat(batch.log_probs),
        ref_log_probs=None if batch.ref_log_probs is None else flat(batch.ref_log_probs),
        advantages=flat(batch.credit.advantages),
        mask=own,
        scale=policy.row_scale(own, group, config=config.policy),
    )
    entropy = None
    if config.policy.entropy:
        entropy = _entropy(model, final, config.sampling.temperature)
    found = policy.sums(log_probs, sampled, config=config.policy, entropy=entropy)
    shown = policy.metrics(log_probs, sampled, config=config.policy)
    found |= {name: shown[name].sum for name in _SHOWN}
    if critic is not None and config.baseline == "critic":
        terms = value_terms(
            values(critic, batch.prompt, text),
            flat(batch.credit.returns),
            old_values=flat(batch.old_values),
            mask=flat(batch.credit.asked),
            clip=config.value_clip,
        )
        found |= {name: term.sum for name, term in terms.items()}
    return found


def written(
    model: VideoLanguageModel,
    final: Float[Array, "b t d"],
    tokens: Int[Array, "b t"],
    *,
    temperature: float,
) -> Float[Array, "b t"]:
    """Log-probability of every token, at the temperature that answers are sampled at."""
    states = model.decoder.norm(final)
    warm = states / jnp.asarray(temperature, states.dtype)
    return token_log_probs(warm, model.decoder.head(), tokens)


def values(critic: Critic, prompt: Prompt, text: Prompt) -> Float[Array, "b t"]:
    """The critic's value before every token."""
    return critic.values(critic.model.follow(critic.model.prefill(prompt), text).final)


def credit(
    rewards: Float[Array, "b g turn"],
    *,
    own: Bool[Array, "b g t"],
    ends: Bool[Array, "b g t"],
    turn: Int[Array, "b g t"],
    old_values: Float[Array, "b g t"] | None,
    divergence: Float[Array, "b g t"] | None,
    config: PpoConfig,
) -> Credit:
    """What every token is worth; arrays are flat in the result, [b * g, t].

    Args:
        rewards: of each turn. turn: that a token belongs to.
        divergence: of the policy from the reference at each token, taken off its reward.
    """
    own, ends = flat(own), flat(ends)
    turns = jnp.arange(rewards.shape[-1], dtype=turn.dtype)
    here = (flat(turn)[..., None] == turns) & ends[..., None]
    at_ends = jnp.sum(jnp.where(here, flat(rewards)[:, None], 0), axis=2)
    if divergence is not None:
        at_ends -= config.kl_reward * jnp.where(own, flat(divergence), 0)
    if config.baseline == "group":
        summed = jnp.sum(jnp.where(own, at_ends, 0), axis=1)
        summed = jnp.where(jnp.any(own, axis=1), summed, jnp.nan)  # absent, where none counts
        group = groups(jnp.zeros(rewards.shape[:2], jnp.float32))
        gained = advantages.group_advantages(summed, group, config=config.group)
        each = jnp.where(own, gained[:, None], 0)
        return Credit(advantages=each, returns=jnp.zeros_like(each), asked=own & False)
    assert old_values is not None, "a critic has values"
    return advantages.token_credit(
        at_ends, flat(old_values), mask=own, ends=ends, config=config.credit
    )


def _entropy(
    model: VideoLanguageModel, final: Float[Array, "b t d"], temperature: float
) -> Float[Array, "b t"]:
    log_p = jax.nn.log_softmax(model.decoder.logits(final) / jnp.float32(temperature), axis=-1)
    return -jnp.sum(jnp.exp(log_p) * log_p, axis=-1)
