"""What is planned for is what a run feeds: the same shapes and types, on the same axes."""

import dataclasses
import pathlib

import jax
import numpy as np
import pytest

from tests.data.test_pipeline import sample
from tests.train.test_rollouts import GRPO, LORA, roll
from tgvlm_jax import mesh as mesh_lib
from tgvlm_jax.config import freeze, load
from tgvlm_jax.data import packing
from tgvlm_jax.data.chat import open_chat
from tgvlm_jax.data.collate import collate, collate_pairs
from tgvlm_jax.models import parameters
from tgvlm_jax.schema import (
    Experiment,
    FpoConfig,
    GroupConfig,
    MeshConfig,
    OptimConfig,
    PolicyConfig,
)
from tgvlm_jax.train import abstract, optim, state
from tgvlm_jax.train.step import make_step
from tgvlm_jax.types import Views

CONFIGS = pathlib.Path(__file__).resolve().parent.parent.parent / "configs"
SIZES = abstract.Sizes(frames=8, question=20, answer=20)


def real(experiment):
    """A batch as a run makes it, of as many frames and about as many tokens."""
    chat, config = open_chat(experiment.data, experiment.model), experiment.data
    pixels = np.zeros((8, *(experiment.model.frame_size or (24, 32)), 3), np.uint8)
    made = [dataclasses.replace(sample(frames=8), frames=pixels, question="When? " * 8)] * 2
    if takes := experiment.data.takes:
        shown = Views(clips=np.stack([pixels] * len(takes.views)), mask=np.ones(3, bool))
        made = [dataclasses.replace(one, views=shown) for one in made]
    if isinstance(experiment.objective, FpoConfig):
        return collate_pairs(made, made, chat=chat, config=config)
    if config.pack > 1:
        made = [one for one in made for _ in range(config.pack)]
    encoded = [chat.encode(one) for one in made]
    if config.pack > 1:
        pairs = list(zip(made, encoded, strict=True))
        planned = packing.plan(pairs, config)
        rows = [[pairs[i] for i in row] for row in planned.rows]
        return packing.collate(rows, planned, config=config, pad_id=chat.pad_id)
    return collate(made, encoded, config=config, pad_id=chat.pad_id)


PLANNED = (
    "d2vlm_sft.py:tiny",
    "d2vlm_fpo.py:tiny",
    "tiny.py:frames=8",
    "videossr_grpo.py:tiny,sft",
    "profvlm_sft.py:tiny",
)


PACKED = {"data.pack": 3, "data.prompt_bucket": 960, "data.visual_bucket": 72}


@pytest.mark.parametrize(
    ("name", "change"),
    [
        *((name, {}) for name in PLANNED),
        ("videossr_grpo.py:tiny,sft", PACKED),
        ("tiny.py:frames=8", PACKED | {"model.evidence": None}),
    ],
)
def test_the_planned_batch_is_the_real_one(name, change):
    overrides = [f"{key}={value}" for key, value in change.items()]
    experiment = freeze(load(f"{CONFIGS / name}", overrides), Experiment)
    experiment = dataclasses.replace(
        experiment,
        data=dataclasses.replace(
            experiment.data,
            batch_size=2,
            frames=(8,),
            prompt_bucket=change.get("data.prompt_bucket", 128),
            question_bucket=64,
            response_bucket=64,
        ),
    )
    mesh = mesh_lib.make(MeshConfig(fsdp=2))
    planned = abstract.abstract_batch(experiment, SIZES, mesh=mesh)
    put = mesh_lib.put_batch(real(experiment), mesh)
    wanted = jax.tree.map(lambda x: (x.shape, x.dtype, x.sharding.shard_shape(x.shape)), put)
    found = jax.tree.map(lambda x: (x.shape, x.dtype, x.sharding.shard_shape(x.shape)), planned)
    assert found == wanted


def test_the_step_takes_the_planned_batch_of_answers():
    """Of the tower's patches, for nothing of it is frozen."""
    experiment = freeze(load(f"{CONFIGS / 'videossr_grpo.py'}:tiny"), Experiment)
    mesh = mesh_lib.make(MeshConfig(fsdp=2))
    blueprint = parameters.blueprint(experiment.model)
    with mesh_lib.use(mesh):
        shapes = jax.eval_shape(lambda: parameters.init(experiment.model, jax.random.key(0)))
        tx = optim.build(experiment.optim, shapes, matrices=blueprint.matrices, steps=1)
        current = jax.eval_shape(lambda: state.create(experiment, tx))
        batch = abstract.abstract_batch(experiment, SIZES, mesh=mesh)
        assert batch.response.tokens.shape == (4, 4, 12)
        _, metrics = jax.eval_shape(make_step(blueprint, tx, experiment), current, batch)
    assert {"policy.sum", "kl.sum"} <= metrics.keys()


@pytest.mark.parametrize("name", ["videomtr_ppo.py:tiny", "videomtr_ppo.py:tiny,imitate"])
def test_the_step_takes_the_planned_batch_of_conversations(name):
    """With a critic, on a mesh, in the shapes that are rolled out."""
    experiment = freeze(load(f"{CONFIGS / name}", ["optim.name=adamw"]), Experiment)
    mesh = mesh_lib.make(MeshConfig(fsdp=2))
    blueprint = parameters.blueprint(experiment.model)
    with mesh_lib.use(mesh):
        shapes = jax.eval_shape(lambda: parameters.init(experiment.model, jax.random.key(0)))
        tx = optim.build(experiment.optim, shapes, matrices=blueprint.matrices, steps=100)
        current = jax.eval_shape(lambda: state.create(experiment, tx))
        batch = abstract.abstract_batch(experiment, SIZES, mesh=mesh)
        # Two answers of 16 tokens, and what is shown between them.
        assert batch.text.tokens.shape[2] == 2 * 16 + 56
        assert batch.text.visual.pixels.shape[2] == 8
        _, metrics = jax.eval_shape(make_step(blueprint, tx, experiment), current, batch)
    assert {"language.sum"} <= metrics.keys() or {"policy.sum", "value.sum"} <= metrics.keys()


@pytest.mark.slow
@pytest.mark.parametrize("frozen", ["", r"^tower\."])
def test_the_planned_batch_of_answers_is_the_real_one(experiment, frozen):
    objective = dataclasses.replace(GRPO, policy=PolicyConfig(kl=0.1), reference="base")
    experiment = dataclasses.replace(
        experiment,
        model=dataclasses.replace(experiment.model, lora=LORA),
        data=dataclasses.replace(experiment.data, frames=(6,)),
        objective=objective,
        optim=OptimConfig(groups=(GroupConfig(pattern=frozen, frozen=True),) if frozen else ()),
    )
    _, rolled = roll(experiment)
    sizes = dataclasses.replace(SIZES, frames=6, question=40)
    planned = abstract.abstract_batch(experiment, sizes, mesh=mesh_lib.make(MeshConfig(fsdp=2)))
    wanted = jax.tree.map(lambda x: (x.shape, x.dtype), rolled.batch)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), planned) == wanted
