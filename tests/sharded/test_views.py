"""A step on several views on a mesh against the same on one device."""

import dataclasses

import jax
import numpy as np
import pytest

from tests.models.test_projectors import MODEL, batch
from tests.models.tiny import gradients, random_params
from tests.sharded.test_train_step import assert_close, laid_out
from tgvlm_jax import mesh as mesh_lib
from tgvlm_jax.schema import Experiment, GroupConfig, MeshConfig, OptimConfig


@pytest.mark.slow
def test_gradients_of_what_is_trained():
    """Views spread over tp too, three over three; the encoder is frozen, dropout off."""
    model = dataclasses.replace(
        MODEL,
        decoder=dataclasses.replace(MODEL.decoder, vocab_size=513),  # divides by three
        projector=dataclasses.replace(MODEL.projector, dropout=0.0),
        lora=tuple(dataclasses.replace(rule, dropout=0.0) for rule in MODEL.lora),
    )
    frozen = GroupConfig(pattern=r"^tower\.|^decoder\..*(?<!lora_a)(?<!lora_b)$", frozen=True)
    one = Experiment(model=model, optim=OptimConfig(groups=(frozen,)))
    params, rows = random_params(model), jax.tree.map(np.asarray, batch())
    wanted, terms = gradients(params, jax.device_put(rows), experiment=one)
    assert {name.split(".")[0] for name in wanted} == {"projector", "decoder"}
    mesh = mesh_lib.make(MeshConfig(fsdp=2, tp=3))
    with mesh_lib.use(mesh):
        placed = laid_out(params, mesh, model)
        found, sums = gradients(placed, mesh_lib.put_batch(rows, mesh), experiment=one)
    assert_close(sums["language"].sum, np.asarray(terms["language"].sum), "loss")
    for name, value in wanted.items():
        assert_close(found[name], np.asarray(value), name)
