"""The training step of a decoder alone on text alone, for chips that are not there."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from tgvlm_jax import mesh as mesh_lib
from tgvlm_jax.plan.programs import Program, update
from tgvlm_jax.plan.topology import Topology
from tgvlm_jax.schema import Experiment
from tgvlm_jax.types import Batch, Prompt, Response

PROMPT, ANSWER = 128, 8064  # tokens; two passes, as in every step of this library


def program(experiment: Experiment, chips: Topology, *, about: str) -> Program:
    """The update of an experiment on its batch of `PROMPT` + `ANSWER` tokens a row."""
    mesh = mesh_lib.make(experiment.mesh, chips.devices)
    assert mesh is not None
    batch = _batch(mesh, experiment.data.batch_size)
    return update(experiment, batch, mesh=mesh, about=about)


def _batch(mesh: Mesh, rows: int) -> Batch:
    sharding = NamedSharding(mesh, PartitionSpec(mesh_lib.RULES["batch"]))

    def array(dtype: Any, *shape: int) -> Any:
        return jax.ShapeDtypeStruct((rows, *shape), dtype, sharding=sharding)

    ids = array(jnp.int32, PROMPT)
    return Batch(
        prompt=Prompt(visual=None, tokens=ids, visual_index=ids, length=array(jnp.int32)),
        response=Response(
            tokens=array(jnp.int32, ANSWER),
            mask=array(jnp.bool_, ANSWER),
            evidence=array(jnp.int32, ANSWER),
            spans=array(jnp.float32, 2, 2),
            evidence_mask=array(jnp.bool_, 2),
        ),
    )
