"""Conversations of several turns on a mesh against the same on one device."""

import dataclasses

import jax
import numpy as np
import pytest

from tests.models import tiny
from tests.rollout.test_turns import CONFIGS, END, LIMITS, PAD, blank_of, vit_row
from tests.sharded.test_train_step import laid_out
from tgvlm_jax import mesh as mesh_lib
from tgvlm_jax.models import parameters
from tgvlm_jax.objectives import grpo, ppo
from tgvlm_jax.objectives.ppo import TurnBatch
from tgvlm_jax.rollout.turns import converse
from tgvlm_jax.schema import (
    CreditConfig,
    CriticConfig,
    Experiment,
    LoraConfig,
    MeshConfig,
    PpoConfig,
    SamplingConfig,
)
from tgvlm_jax.train import step

LORA = (LoraConfig(pattern=r"decoder\.blocks\.(q|v)", rank=2, alpha=4.0),)
MODEL = dataclasses.replace(CONFIGS["tiny_vit"], critic=CriticConfig(kind="adapters", lora=LORA))
PPO = PpoConfig(sampling=SamplingConfig(temperature=1.2), credit=CreditConfig(gamma=0.9, lam=0.9))
EXPERIMENT = Experiment(model=MODEL, objective=PPO)
BLUEPRINT = parameters.blueprint(MODEL)


def talked_and_learned(mesh):
    """What was said, its credit and the gradient."""
    params = tiny.random_params(MODEL)
    rows = [vit_row(i, frames=4, before=2, after=3) for i in range(4)]
    shown = [vit_row(9 + i, frames=2, before=1, after=2, length=8, room=2) for i in range(8)]
    with mesh_lib.use(mesh):
        params = params if mesh is None else laid_out(params, mesh, MODEL)
        prompt = mesh_lib.put_batch(jax.tree.map(lambda *x: np.stack(x), *rows), mesh)
        found = converse(
            params,
            prompt,
            lambda turn, said: [one if turn < 2 and i % 4 else None for i, one in enumerate(shown)],
            blueprint=BLUEPRINT,
            limits=LIMITS,
            blank=blank_of(shown[0]),
            end_id=END,
            pad_id=PAD,
            sampling=PPO.sampling,
            key=jax.random.key(0),
            samples=2,
            mesh=mesh,
        )
        rewards = np.arange(24, dtype=np.float32).reshape(8, 3) / 7

        @jax.jit
        def learn(params, prompt, found, rewards):
            def grouped(tree):
                return jax.tree.map(lambda x: grpo.grouped(x, 2), tree)

            values = ppo.values(BLUEPRINT.build_critic(params), prompt, found.text)
            own, ends, turn = grouped((found.own, found.ends, found.turn))
            credit = ppo.credit(
                grouped(rewards),
                own=own,
                ends=ends,
                turn=turn,
                old_values=grouped(values),
                divergence=None,
                config=PPO,
            )
            batch = TurnBatch(
                prompt=prompt,
                text=grouped(found.text),
                own=own,
                log_probs=grouped(found.log_probs),
                credit=grouped(credit),
                old_values=grouped(values),
            )
            setting = {"blueprint": BLUEPRINT, "experiment": EXPERIMENT}
            grads, _ = step.gradients(params, batch, jax.random.key(0), **setting)
            return credit.advantages, grads

        advantages, grads = learn(params, prompt, found, mesh_lib.put_batch(rewards, mesh))
        return jax.device_get((found.text.tokens, found.own, advantages, grads))


@pytest.mark.slow  # its programs take a minute to compile
def test_a_mesh_changes_nothing():
    one = talked_and_learned(None)
    many = talked_and_learned(mesh_lib.make(MeshConfig(fsdp=2, tp=2)))
    np.testing.assert_array_equal(one[0], many[0])
    np.testing.assert_array_equal(one[1], many[1])
    np.testing.assert_allclose(one[2], many[2], atol=1e-4)
    for name, wanted in one[3].items():
        np.testing.assert_allclose(many[3][name], wanted, atol=1e-4, rtol=1e-3, err_msg=name)
    assert any(np.any(x) for name, x in one[3].items() if name.startswith("critic."))
