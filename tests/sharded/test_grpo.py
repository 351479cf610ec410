"""A rollout and its update on a mesh against the same on one device."""

import dataclasses

import jax
import numpy as np
import optax

from tests.models.tiny import CONFIG, EXPERIMENT, RAGGED, batch, random_params
from tests.sharded.test_train_step import assert_close, laid_out
from tgvlm_jax import mesh as mesh_lib
from tgvlm_jax.models import parameters
from tgvlm_jax.rollout.sampler import generate
from tgvlm_jax.schema import GrpoConfig, MeshConfig, PolicyConfig, SamplingConfig
from tgvlm_jax.train import policy_batch
from tgvlm_jax.train.state import TrainState
from tgvlm_jax.train.step import make_step

GRPO = GrpoConfig(
    reward="grounding",
    num_generations=2,
    max_tokens=6,
    sampling=SamplingConfig(temperature=1.2),
    policy=PolicyConfig(kl=0.1),
    reference="copy",
    spans=1.0,
    updates=2,
)
LEARNS = dataclasses.replace(EXPERIMENT, objective=GRPO)
BLUEPRINT = parameters.blueprint(CONFIG)
REWARDS = np.random.default_rng(0).random((8, 2), np.float32)


def rolled_and_updated(mesh, params, evidence):
    """Answers in two parts, the policy batch, and the parameters after two updates."""
    prompt = jax.tree.map(np.asarray, batch(RAGGED * 2).prompt)
    ids = {"evidence_id": evidence, "end_id": 5}
    with mesh_lib.use(mesh):
        placed = params if mesh is None else laid_out(params, mesh)
        parts = [jax.tree.map(lambda x, p=p: x[p::2], prompt) for p in range(2)]
        parts = [mesh_lib.put_batch(part, mesh) for part in parts]
        found = [
            generate(
                placed,
                part,
                blueprint=BLUEPRINT,
                max_tokens=GRPO.max_tokens,
                pad_id=0,
                sampling=GRPO.sampling,
                key=jax.random.key(number),
                samples=2,
                sample_spans=True,
                **ids,
            )
            for number, part in enumerate(parts)
        ]
        replayed = {"evidence_id": evidence, "slots": 6}
        reference = [
            policy_batch.log_probs(placed, *pair, blueprint=BLUEPRINT, config=GRPO, **replayed)
            for pair in zip(parts, found, strict=True)
        ]
        made, figures = policy_batch.assemble(
            tuple(parts),
            tuple(found),
            tuple(reference),
            mesh_lib.put_batch((REWARDS, REWARDS[::-1].copy()), mesh),
            config=GRPO,
            end_id=5,
            **replayed,
        )
        tx = optax.sgd(0.1)
        start = TrainState(
            step=mesh_lib.shard(jax.numpy.int32(0)),
            params=jax.tree.map(lambda x: x + 0, placed),
            opt_state=tx.init(placed),
            key=jax.random.key(1),
        )
        new, metrics = make_step(BLUEPRINT, tx, LEARNS)(start, made)
    return jax.device_get((made, figures, new.params, metrics))


def test_a_mesh_samples_and_learns_the_same():
    params = random_params()
    prompt = jax.device_put(jax.tree.map(np.asarray, batch(RAGGED * 2).prompt))
    first = generate(
        params, prompt, blueprint=BLUEPRINT, max_tokens=1, pad_id=0, end_id=-1, evidence_id=-1
    )
    evidence = int(first.tokens[0, 0])
    wanted = rolled_and_updated(None, params, evidence)
    found = rolled_and_updated(mesh_lib.make(MeshConfig(fsdp=4, tp=2)), params, evidence)
    for name in ("tokens", "mask", "evidence", "spans"):
        np.testing.assert_array_equal(
            getattr(found[0].response, name), getattr(wanted[0].response, name)
        )
    assert wanted[0].drawn.mask.any()
    np.testing.assert_array_equal(found[0].drawn.frames, wanted[0].drawn.frames)
    assert_close(found[0].log_probs, wanted[0].log_probs, "log_probs")
    for part in (1, 2, 3):
        for name, value in wanted[part].items():
            assert_close(found[part][name], value, name)
    assert wanted[3]["kl.sum"] != 0
    moved = [name for name, value in wanted[2].items() if np.any(value != params[name])]
    assert len(moved) > len(params) // 2
