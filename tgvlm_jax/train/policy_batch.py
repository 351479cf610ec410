"""The device's part of a rollout: sampled, rewarded answers become a batch of the policy loss."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from tgvlm_jax import mesh as mesh_lib
from tgvlm_jax.models.parameters import Blueprint, Params
from tgvlm_jax.objectives import advantages, grpo
from tgvlm_jax.objectives.grpo import Drawn, PolicyBatch
from tgvlm_jax.rollout.replay import Replay, replay
from tgvlm_jax.rollout.sampler import Generation
from tgvlm_jax.schema import GrpoConfig
from tgvlm_jax.types import Prompt, Response


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


@functools.partial(jax.jit, static_argnames=("config", "evidence_id", "end_id", "slots"))
def assemble(
    prompts: tuple[Prompt, ...],
    found: tuple[Generation, ...],
    reference: tuple[jax.Array | None, ...],
    rewards: tuple[jax.Array, jax.Array],
    *,
    config: GrpoConfig,
    evidence_id: int,
    end_id: int,
    slots: int,
) -> tuple[PolicyBatch, dict[str, jax.Array]]:
    """The parts of a rollout as one batch with advantages, and figures about it.

    `rewards` are of the answers, and of their spans.
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
    batch = PolicyBatch(
        prompt=_merge(prompts),
        response=dataclasses.replace(response, mask=response.mask & there[..., None]),
        advantages=gained,
        log_probs=chances,
        ref_log_probs=merged(reference) if config.policy.kl else None,
        drawn=drawn,
    )
    ended = jnp.any(response.mask & (response.tokens == end_id), axis=2)
    return batch, _figures(response, rewards[0], finite, ended)


def _advantages(rewards: jax.Array, config: GrpoConfig) -> jax.Array:
    flat, group = grpo.flat(rewards), grpo.groups(rewards)
    gained = advantages.group_advantages(flat, group, config=config.advantage)
    return grpo.grouped(gained, rewards.shape[1])


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
