"""Batches of conversations without content: shapes, types and layouts (see `abstract.py`)."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from tgvlm_jax import mesh as mesh_lib
from tgvlm_jax.data.patch_videos import bucket_of
from tgvlm_jax.models import parameters
from tgvlm_jax.objectives.advantages import Credit
from tgvlm_jax.objectives.ppo import TurnBatch
from tgvlm_jax.schema import Experiment, ImitateConfig, PpoConfig, QwenVisionConfig, TurnsConfig
from tgvlm_jax.train import optim
from tgvlm_jax.types import Features, Frames, InputError, PatchRows, Prompt


def turn_batch(experiment: Experiment, *, mesh: Mesh) -> TurnBatch:
    """What a step over several turns takes: conversations of the greatest length."""
    config, rows = experiment.objective, experiment.data.batch_size
    assert isinstance(config, PpoConfig | ImitateConfig)
    group = config.num_generations if isinstance(config, PpoConfig) else 1
    length = text_length(experiment)

    def array(dtype: Any, *shape: int) -> jax.ShapeDtypeStruct:
        return _array(mesh, rows, dtype, group, *shape)

    each = array(jnp.float32, length)
    batch = TurnBatch(
        prompt=turn_prompt(experiment, mesh=mesh, rows=rows),
        text=_text(experiment, mesh=mesh, rows=rows, group=group),
        own=array(jnp.bool_, length),
        log_probs=each,
    )
    if isinstance(config, ImitateConfig):
        return batch
    return dataclasses.replace(
        batch,
        ref_log_probs=each if config.policy.kl else None,
        credit=Credit(advantages=each, returns=each, asked=array(jnp.bool_, length)),
        old_values=each if config.baseline == "critic" else None,
    )


def turn_prompt(experiment: Experiment, *, mesh: Mesh, rows: int, later: bool = False) -> Prompt:
    """What `rows` conversations begin with, or what each is shown `later`, once.

    Where nothing of the tower is trained, its work is done.
    """
    turns = _turns(experiment)
    frames = turns.each if later else turns.first
    length = turns.tokens if later else experiment.data.prompt_tokens

    def array(dtype: Any, *shape: int) -> jax.ShapeDtypeStruct:
        return _array(mesh, rows, dtype, *shape)

    places = {"tokens": array(jnp.int32, length), "visual_index": array(jnp.int32, length)}
    tower = experiment.model.tower
    if isinstance(tower, QwenVisionConfig):
        slots = bucket_of(tower, experiment.data).slots
        visual = PatchRows(
            patches=array(jnp.uint8, frames, slots, 3 * tower.temporal * tower.patch**2),
            coordinates=array(jnp.int32, frames, slots, 2),
            frames=array(jnp.int32, frames, slots),
            windows=array(jnp.int32, frames, slots),
            table=array(jnp.float32, frames, slots, 2),
        )
        places |= {"positions": array(jnp.int32, 3, length), "offset": array(jnp.int32)}
    else:
        size = experiment.model.frame_size
        if size is None:
            raise InputError("data.turns: the model's tower is not for several turns")
        visual = Frames(pixels=array(jnp.uint8, frames, *size, 3), mask=array(jnp.bool_, frames))
    prompt = Prompt(visual=visual, length=array(jnp.int32), **places)
    return _seen(experiment, prompt, mesh)


def text_length(experiment: Experiment) -> int:
    """Slots of all that may follow a prompt (`rollout.turns.Limits.length`)."""
    turns, config = _turns(experiment), experiment.objective
    assert isinstance(config, PpoConfig | ImitateConfig)
    return turns.turns * config.max_tokens + (turns.turns - 1) * turns.tokens


def _text(experiment: Experiment, *, mesh: Mesh, rows: int, group: int) -> Prompt:
    """All turns together, one row an answer."""
    turns, length = _turns(experiment), text_length(experiment)

    def array(dtype: Any, *shape: int) -> jax.ShapeDtypeStruct:
        return _array(mesh, rows, dtype, group, *shape)

    visual, positions, offset = None, None, None
    if turns.turns > 1:
        shown = turn_prompt(experiment, mesh=mesh, rows=rows * group, later=True)
        visual = _beside(shown.visual, turns.turns - 1)
        visual = jax.tree.map(lambda x: array(x.dtype, *x.shape[1:]) if x.ndim else x, visual)
        if shown.positions is not None:
            positions, offset = array(jnp.int32, 3, length), array(jnp.int32)
    return Prompt(
        visual=visual,
        tokens=array(jnp.int32, length),
        visual_index=array(jnp.int32, length),
        length=array(jnp.int32),
        positions=positions,
        offset=offset,
    )


def _beside(visual: Any, count: int) -> Any:
    """What was seen in `count` turns as one (`rollout.turns`)."""

    def longer(x: Any, axis: int) -> jax.ShapeDtypeStruct:
        shape = (*x.shape[:axis], count * x.shape[axis], *x.shape[axis + 1 :])
        return jax.ShapeDtypeStruct(shape, x.dtype)

    if isinstance(visual, Features):
        deepstack = None if visual.deepstack is None else longer(visual.deepstack, 2)
        # Masks of frames are not kept of several turns.
        mask = visual.mask if count == 1 else None
        return Features(tokens=longer(visual.tokens, 1), deepstack=deepstack, mask=mask)
    return jax.tree.map(lambda x: longer(x, 1), visual)


def _seen(experiment: Experiment, prompt: Prompt, mesh: Mesh) -> Prompt:
    blueprint = parameters.blueprint(experiment.model)
    trained = optim.trainable(experiment.optim, dict.fromkeys(blueprint.shapes))
    if parameters.reach_tower(name.removeprefix("critic.") for name in trained):
        return prompt

    def see(prompt: Prompt) -> Prompt:
        params = parameters.init(experiment.model, jax.random.key(0))
        return blueprint.build(params).see(prompt)

    with mesh_lib.use(mesh):
        return jax.eval_shape(see, prompt)


def _turns(experiment: Experiment) -> TurnsConfig:
    turns = experiment.data.turns
    assert turns is not None, "checked: the objective is over several turns"
    return turns


def _array(mesh: Mesh, rows: int, dtype: Any, *shape: int) -> jax.ShapeDtypeStruct:
    spec = PartitionSpec(mesh_lib.RULES["batch"])
    return jax.ShapeDtypeStruct((rows, *shape), dtype, sharding=NamedSharding(mesh, spec))
