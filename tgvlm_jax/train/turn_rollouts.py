"""From questions about pools of frames to a batch of conversations: answer, reward, compare."""

import dataclasses
import functools
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from tgvlm_jax import mesh as mesh_lib
from tgvlm_jax.data.chat import Chat
from tgvlm_jax.models import lora
from tgvlm_jax.models.parameters import Blueprint, Params
from tgvlm_jax.models.vlm import check_turns
from tgvlm_jax.objectives import grpo, ppo
from tgvlm_jax.objectives.ppo import TurnBatch
from tgvlm_jax.rewards import videomtr
from tgvlm_jax.rewards.videomtr import BootstrapState, Shaped, Turns
from tgvlm_jax.rollout import turns
from tgvlm_jax.rollout.turns import Conversations
from tgvlm_jax.schema import Experiment, ImitateConfig, PpoConfig
from tgvlm_jax.train import distributed, step
from tgvlm_jax.train import episodes as episodes_lib
from tgvlm_jax.train.episodes import Episodes
from tgvlm_jax.train.rollouts import Rolled, Told
from tgvlm_jax.train.state import TrainState
from tgvlm_jax.train.talks import Talks, told
from tgvlm_jax.types import InputError, Pools, Prompt

_ROLLOUT = 2  # of the streams of random numbers; 0 and 1 are those of parameters and dropout


def check(experiment: Experiment) -> None:
    """Raises InputError where the objective does not fit the rest of an experiment."""
    config, batch = experiment.objective, experiment.data.batch_size
    assert isinstance(config, PpoConfig | ImitateConfig)
    if experiment.data.turns is None:
        raise InputError(f"objective.kind={config.kind!r} wants data.turns: how frames are shown")
    check_turns(experiment.model)
    updates = config.updates if isinstance(config, PpoConfig) else 1
    if batch % (updates * experiment.train.accumulate):
        raise InputError(
            f"objective.updates={updates} x train.accumulate={experiment.train.accumulate} "
            f"does not divide data.batch_size={batch}"
        )
    if not isinstance(config, PpoConfig):
        return
    if (config.baseline == "critic") != (experiment.model.critic is not None):
        raise InputError(
            f"objective.baseline={config.baseline!r}: model.critic must be there with 'critic', "
            "and only then"
        )
    if config.reference == "base" and not experiment.model.lora:
        raise InputError("objective.reference='base' needs adapters: give model.lora a table")
    if config.reference == "copy" and not experiment.train.init_from:
        raise InputError("objective.reference='copy' needs train.init_from: what is copied")


class TurnRollouts:
    """Samples conversations about questions, rewards and compares them."""

    def __init__(
        self,
        experiment: Experiment,
        *,
        blueprint: Blueprint,
        chat: Chat,
        mesh: Mesh | None,
        copy: Params | None = None,
    ):
        """`copy` are the parameters of the reference where `objective.reference` is "copy".

        Raises:
            InputError: the objective does not fit the rest.
        """
        config = experiment.objective
        assert isinstance(config, PpoConfig)
        check(experiment)
        self.experiment, self.config, self.copy = experiment, config, copy
        self.blueprint, self.mesh = blueprint, mesh
        self.talks = Talks(experiment, blueprint=blueprint, chat=chat, mesh=mesh)
        self.rule = videomtr.PRESETS[config.reward]
        self.bootstrap = BootstrapState()
        self.rows = mesh_lib.own_rows(mesh, experiment.data.batch_size)

    def get_state(self) -> dict[str, Any]:
        """What to checkpoint; JSON."""
        return dataclasses.asdict(self.bootstrap)

    def set_state(self, state: dict[str, Any]) -> None:
        """Goes on from there."""
        self.bootstrap = BootstrapState(**state)

    def close(self) -> None:
        """Nothing is open."""

    def __call__(self, state: TrainState, pools: Pools) -> Rolled:
        """Conversations with the parameters of `state`; the key follows from its step.

        Raises:
            InputError: no conversation has a finite probability.
        """
        began, config = time.monotonic(), self.config
        key = jax.random.fold_in(jax.random.fold_in(state.key, _ROLLOUT), state.step)
        group, params = config.num_generations, state.params
        played, prompt = self.talks.begin(params, pools.samples, group=group)
        found = turns.converse(
            params,
            prompt,
            played.reply,
            end_id=self.talks.chat.end_id,
            sampling=config.sampling,
            key=key,
            samples=group,
            **self.talks.settings(played, config.max_tokens),
        )
        shaped = self._shape(played.outcome(decay=self.rule.turn_decay))
        self.bootstrap = shaped.state
        there = np.repeat([sample.readable for sample in pools.samples], group)
        batch, stats = _assemble(
            prompt,
            found,
            mesh_lib.put_batch((shaped.total, there), self.mesh),
            self._values(params, prompt, found),
            self._reference(params, prompt, found),
            config=config,
        )
        metrics = {name: float(value) for name, value in jax.device_get(stats).items()}
        if metrics["not_finite"] == 1:
            raise InputError(
                "none of the conversations has a finite probability: the parameters are no "
                "longer numbers; start again from an earlier checkpoint with a lower optim.lr"
            )
        said = episodes_lib.summary(played.episodes) | _shares(shaped, played)
        metrics |= distributed.mean(said)
        metrics["rollout_seconds"] = time.monotonic() - began
        groups = _tell(played, shaped, group)
        return Rolled(batch=batch, metrics=metrics, told=groups, failures=())

    def _shape(self, own: Turns) -> Shaped:
        """Rewards of this host's conversations; the bonus looks at how those of all hosts went."""
        parts = dataclasses.asdict(own)
        said = {"rows": self.rows} | {name: x.tolist() for name, x in parts.items()}
        by_rows = {tuple(one["rows"]): one for one in distributed.gather(said)}
        order = sorted(by_rows)
        whole = {
            name: np.concatenate([np.asarray(by_rows[rows][name], x.dtype) for rows in order])
            for name, x in parts.items()
        }
        shaped = videomtr.shape(Turns(**whole), self.rule, state=self.bootstrap)
        first = order.index(self.rows) * len(own.taken)
        mine = {name: x[first : first + len(own.taken)] for name, x in shaped.terms.items()}
        return dataclasses.replace(shaped, terms=mine)

    def _values(self, params: Params, prompt: Prompt, found: Conversations) -> jax.Array | None:
        if self.config.baseline != "critic":
            return None
        return _old_values(params, prompt, found.text, blueprint=self.blueprint)

    def _reference(self, params: Params, prompt: Prompt, found: Conversations) -> jax.Array | None:
        if not (self.config.policy.kl or self.config.kl_reward):
            return None
        blueprint = self.blueprint
        if self.config.reference == "base":
            blueprint, params = step.base(self.experiment), lora.without(params)
        else:
            assert self.copy is not None
            params = self.copy
        temperature = self.config.sampling.temperature
        return _log_probs(params, prompt, found.text, blueprint=blueprint, temperature=temperature)


@functools.partial(jax.jit, static_argnames="blueprint")
def _old_values(params: Params, prompt: Prompt, text: Prompt, *, blueprint: Blueprint) -> jax.Array:
    return ppo.values(blueprint.build_critic(params), prompt, text)


@functools.partial(jax.jit, static_argnames=("blueprint", "temperature"))
def _log_probs(
    params: Params, prompt: Prompt, text: Prompt, *, blueprint: Blueprint, temperature: float
) -> jax.Array:
    """Of every token under other parameters."""
    model = blueprint.build(params)
    final = model.follow(model.prefill(prompt), text).final
    return ppo.written(model, final, text.tokens, temperature=temperature)


@functools.partial(jax.jit, static_argnames="config")
def _assemble(
    prompt: Prompt,
    found: Conversations,
    rewarded: tuple[jax.Array, jax.Array],
    values: jax.Array | None,
    reference: jax.Array | None,
    *,
    config: PpoConfig,
) -> tuple[TurnBatch, dict[str, jax.Array]]:
    """Conversations as a batch with credit, and figures about it.

    `rewarded` are the rewards of every turn, and which conversations count.
    """
    rewards, there = rewarded
    finite = jnp.all(jnp.where(found.own, jnp.isfinite(found.log_probs), True), axis=1)
    own = found.own & (finite & there)[:, None]

    def grouped(tree):
        return jax.tree.map(lambda x: grpo.grouped(x, config.num_generations), tree)

    gap = None
    if config.kl_reward and reference is not None:
        gap = jnp.where(own, found.log_probs - reference, 0)
    parts = {"own": own, "ends": found.ends & own, "turn": found.turn}
    worth = ppo.credit(
        grouped(rewards),
        **grouped(parts),
        old_values=grouped(values),
        divergence=grouped(gap),
        config=config,
    )
    batch = TurnBatch(
        prompt=prompt,
        text=grouped(found.text),
        own=grouped(own),
        log_probs=grouped(found.log_probs),
        ref_log_probs=grouped(reference) if config.policy.kl else None,
        credit=grouped(worth),
        old_values=grouped(values),
    )
    total = jnp.sum(rewards, axis=1)
    each = grouped(total)
    count = jnp.maximum(jnp.sum(own), 1).astype(jnp.float32)
    stats = {
        "reward": jnp.mean(total),
        "reward_spread": jnp.mean(jnp.std(each, axis=1)),
        "equal_groups": jnp.mean(
            (jnp.max(each, axis=1) <= jnp.min(each, axis=1)).astype(jnp.float32)
        ),
        "answer_tokens": jnp.sum(found.own) / jnp.maximum(jnp.sum(found.ends), 1),
        "not_finite": 1 - jnp.mean(finite.astype(jnp.float32)),
    }
    if gap is not None:
        stats["reference_kl"] = jnp.sum(gap) / count
    if values is not None:
        stats["values"] = jnp.sum(jnp.where(own, values, 0)) / count
    return batch, stats


def _shares(shaped: Shaped, played: Episodes) -> dict[str, float]:
    """Mean reward of a conversation by term, how often the policy looks, and what went wrong."""
    count = max(len(played.episodes), 1)
    found = {f"reward_{name}": float(x.sum()) / count for name, x in shaped.terms.items()}
    errors = [turn.action.error for one in played.episodes for turn in one.turns if turn.action]
    wrong = [error for error in errors if error != "none"]
    return found | {"retrieval_rate": shaped.rate, "invalid": len(wrong) / max(len(errors), 1)}


def _tell(played: Episodes, shaped: Shaped, group: int) -> tuple[Told, ...]:
    terms = [
        [
            {name: float(x[row, turn]) for name, x in shaped.terms.items() if x[row, turn]}
            for turn in range(shaped.total.shape[1])
        ]
        for row in range(len(played.episodes))
    ]
    return tuple(
        told(played.episodes[first : first + group], terms[first : first + group])
        for first in range(0, len(played.episodes), group)
    )
