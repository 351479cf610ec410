"""The device's part of a rollout: sampled, rewarded answers become a batch of the policy loss."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Annotated, Any

import jax
import jax.numpy as jnp

from tgvlm_jax import mesh as mesh_lib
from tgvlm_jax.models.parameters import Blueprint, Params
from tgvlm_jax.objectives import advantages, grpo, policy
from tgvlm_jax.objectives.grpo import Drawn, PolicyBatch
from tgvlm_jax.rollout.replay import Replay, replay
from tgvlm_jax.rollout.sampler import Generation
from tgvlm_jax.schema import GrpoConfig
from tgvlm_jax.types import Prompt, Response, pytree

SEGMENTS = 2  # of an answer of VideoP2R: perception and reasoning
_ALONE = {"perception": (1.0, 0.0), "reasoning": (0.0, 1.0)}


@functools.partial(jax.jit, static_argnames="blueprint")
def see(params: Params, prompt: Prompt, *, blueprint: Blueprint) -> Prompt:
    """The prompt with the tower's work done, for all passes of a frozen tower."""
    return blueprint.build(params).see(prompt)


@functools.partial(jax.jit, static_argnames=("blueprint", "config", "evidence_id", "slots"))
def log_probs(
    params: Params,
    prompt: Prompt,
    found: Generation,
    *,
    blueprint: Blueprint,
    config: GrpoConfig,
    evidence_id: int,
    slots: int,
) -> jax.Array:
    """Of every sampled token under other parameters."""
    model = blueprint.build(params)
    answered = _replay(found, prompt, evidence_id=evidence_id, slots=slots).response
    predicted = model.extend(model.prefill(prompt), answered)
    return grpo.answer_log_probs(model, predicted, answered, config=config)


def _replay(found: Generation, prompt: Prompt, *, evidence_id: int, slots: int) -> Replay:
    frames = None
    if found.grounding is not None:
        frames = mesh_lib.repeat(prompt.visual.mask, len(found.tokens) // len(prompt.length))
    return replay(found, frames, evidence_id=evidence_id, slots=slots)


@pytree
@dataclasses.dataclass(frozen=True, kw_only=True)
class Segmented:
    """Answers in segments that are rewarded apart (VideoP2R 5); as the host has found them.

    Attributes:
        rewards: of each segment. segments: which one a token belongs to.
    """

    rewards: Annotated[Any, "float32 b g s"]
    segments: Annotated[Any, "int32 b g t"]


@functools.partial(jax.jit, static_argnames=("config", "evidence_id", "end_id", "slots"))
def assemble(
    prompts: tuple[Prompt, ...],
    found: tuple[Generation, ...],
    reference: tuple[jax.Array | None, ...],
    rewards: tuple[jax.Array, jax.Array],
    segmented: Segmented | None = None,
    *,
    config: GrpoConfig,
    evidence_id: int,
    end_id: int,
    slots: int,
) -> tuple[PolicyBatch, dict[str, jax.Array]]:
    """The parts of a rollout as one batch with advantages, and figures about it.

    `rewards` are of the answers, and of their spans; those of segments, where answers have some,
    are what their tokens' advantages come from.
    """
    size = config.num_generations

    def merged(parts):
        return _merge([jax.tree.map(lambda x: grpo.grouped(x, size), part) for part in parts])

    replays = merged(
        [
            _replay(one, prompt, evidence_id=evidence_id, slots=slots)
            for one, prompt in zip(found, prompts, strict=True)
        ]
    )
    chances = merged([one.log_probs for one in found])
    gained, spans_gained = (_advantages(one, config) for one in rewards)
    response, actions = replays.response, replays.actions
    tokens = jnp.broadcast_to(gained[..., None], chances.shape)
    if segmented is not None:
        tokens = _token_advantages(segmented, config)
    finite = jnp.all(jnp.where(response.mask, jnp.isfinite(chances), True), axis=2)
    there = finite & jnp.isfinite(rewards[0])
    drawn = None
    if actions is not None:
        drawn = Drawn(
            frames=actions.frames,
            log_probs=actions.log_probs,
            mask=actions.mask & finite[..., None, None],
            advantages=spans_gained,
        )
    mask = response.mask & there[..., None]
    batch = PolicyBatch(
        prompt=_merge(prompts),
        response=dataclasses.replace(response, mask=mask),
        advantages=tokens,
        scale=None if segmented is None else _scale(segmented, mask, config),
        log_probs=chances,
        ref_log_probs=merged(reference) if config.policy.kl else None,
        drawn=drawn,
    )
    ended = jnp.any(response.mask & (response.tokens == end_id), axis=2)
    figures = _figures(response, rewards[0], finite, ended)
    if segmented is not None:
        figures |= _collapsed(segmented, jnp.where(mask, tokens, 0))
    return batch, figures


def _advantages(rewards: jax.Array, config: GrpoConfig) -> jax.Array:
    flat, group = grpo.flat(rewards), grpo.groups(rewards)
    gained = advantages.group_advantages(flat, group, config=config.advantage)
    return grpo.grouped(gained, rewards.shape[1])


def _scale(segmented: Segmented, mask: jax.Array, config: GrpoConfig) -> jax.Array | None:
    """What tokens count where the means of segments are added up."""
    if config.process is None or config.process.segment_norm == "sequence":
        return None
    segment = grpo.flat(segmented.segments)
    scale = policy.segment_scale(grpo.flat(mask), segment, segments=SEGMENTS)
    return grpo.grouped(scale, config.num_generations)


def _token_advantages(segmented: Segmented, config: GrpoConfig) -> jax.Array:
    """Of each token that of its segment, or of the whole answer in the ablations."""
    size, process = config.num_generations, config.process
    assert process is not None
    rewards, setting = grpo.flat(segmented.rewards), config.advantage
    if process.advantages in _ALONE:
        setting = dataclasses.replace(setting, weights=_ALONE[process.advantages], combine="sum")
    gained = advantages.process_advantages(
        rewards,
        grpo.groups(segmented.rewards),
        config=setting,
        separate=process.advantages == "separate",
    )
    return grpo.grouped(advantages.over_tokens(gained, grpo.flat(segmented.segments)), size)


def _collapsed(segmented: Segmented, tokens: jax.Array) -> dict[str, jax.Array]:
    """Share of groups with equal rewards in a segment, and of those without any advantage."""
    group = grpo.groups(segmented.rewards)
    found = {}
    for number, name in enumerate(("perception", "reasoning")):
        rewards = segmented.rewards[..., number]
        counted = grpo.flat(jnp.where(jnp.isfinite(rewards), rewards, 0))
        same = advantages.collapsed_groups(counted, group)
        found[f"equal_{name}"] = same.sum / same.weight
    silent = jnp.all(tokens == 0, axis=(1, 2))
    return found | {"silent_groups": jnp.mean(silent.astype(jnp.float32))}


def _figures(
    response: Response, rewards: jax.Array, finite: jax.Array, ended: jax.Array
) -> dict[str, jax.Array]:
    """What is logged of a rollout beside its rewards, over all hosts."""
    there = jnp.isfinite(rewards)
    counted = grpo.flat(jnp.where(there, rewards, 0))
    same = advantages.collapsed_groups(counted, grpo.groups(rewards))
    count = jnp.maximum(jnp.sum(there, axis=1), 1).astype(jnp.float32)
    mean = jnp.sum(jnp.where(there, rewards, 0), axis=1) / count
    squares = jnp.sum(jnp.where(there, (rewards - mean[:, None]) ** 2, 0), axis=1)
    return {
        "reward_spread": jnp.mean(jnp.sqrt(squares / count)),
        "equal_groups": same.sum / same.weight,
        "answer_tokens": jnp.mean(jnp.sum(response.mask, axis=2).astype(jnp.float32)),
        "cut_off": 1 - jnp.mean(ended.astype(jnp.float32)),
        "not_finite": 1 - jnp.mean(finite.astype(jnp.float32)),
    }


def _merge(parts: Sequence[Any]) -> Any:
    """Rows of all parts in the order of the questions, of which part p has every p-th."""
    if len(parts) == 1:
        return parts[0]

    def merge(*values):
        rest = (None,) * (values[0].ndim - 1)
        both = jnp.stack(values, axis=1)
        shape = (both.shape[0] * both.shape[1], *both.shape[2:])
        return mesh_lib.reshape(both, shape, out=("batch", *rest))

    return jax.tree.map(merge, *parts)
