"""What is planned for is what a run feeds: the same shapes and types, on the same axes."""

import dataclasses
import pathlib

import jax
import numpy as np
import pytest

from tests.data.test_pipeline import sample
from tgvlm_jax import mesh as mesh_lib
from tgvlm_jax.config import freeze, load
from tgvlm_jax.data.chat import open_chat
from tgvlm_jax.data.collate import collate, collate_pairs
from tgvlm_jax.schema import Experiment, FpoConfig, MeshConfig
from tgvlm_jax.train import plan

CONFIGS = pathlib.Path(__file__).resolve().parent.parent.parent / "configs"
SIZES = plan.Sizes(frames=8, question=20, answer=20)


def real(experiment):
    """A batch as a run makes it, of as many frames and about as many tokens."""
    chat, config = open_chat(experiment.data, experiment.model), experiment.data
    pixels = np.zeros((8, *(experiment.model.frame_size or (24, 32)), 3), np.uint8)
    made = [dataclasses.replace(sample(frames=8), frames=pixels, question="When? " * 8)] * 2
    if isinstance(experiment.objective, FpoConfig):
        return collate_pairs(made, made, chat=chat, config=config)
    encoded = [chat.encode(one) for one in made]
    return collate(made, encoded, config=config, pad_id=chat.pad_id)


PLANNED = (
    "d2vlm_sft.py:tiny",
    "d2vlm_fpo.py:tiny",
    "tiny.py:frames=8",
    "videossr_grpo.py:tiny,sft",
)


@pytest.mark.parametrize("name", PLANNED)
def test_the_planned_batch_is_the_real_one(name):
    experiment = freeze(load(f"{CONFIGS / name}"), Experiment)
    experiment = dataclasses.replace(
        experiment,
        data=dataclasses.replace(
            experiment.data,
            batch_size=2,
            frames=(8,),
            prompt_bucket=128,
            question_bucket=64,
            response_bucket=64,
        ),
    )
    mesh = mesh_lib.make(MeshConfig(fsdp=2))
    planned = plan.abstract_batch(experiment, SIZES, mesh=mesh)
    put = mesh_lib.put_batch(real(experiment), mesh)
    wanted = jax.tree.map(lambda x: (x.shape, x.dtype, x.sharding.shard_shape(x.shape)), put)
    found = jax.tree.map(lambda x: (x.shape, x.dtype, x.sharding.shard_shape(x.shape)), planned)
    assert found == wanted


@pytest.mark.slow
def test_a_step_compiles_for_a_chip_that_is_not_there():
    pytest.importorskip("libtpu", reason="the extra `plan` is not installed")
    experiment = freeze(load(f"{CONFIGS / 'd2vlm_sft.py'}:tiny"), Experiment)
    found = plan.plan(experiment, "v5e:1x1", sizes=SIZES)
    assert found.fits
    assert found.chips == 1
    assert 0 < found.state < found.peak < found.available
