import dataclasses

import jax
import numpy as np

from tests.models.tiny import CONFIG, batch, random_params
from tgvlm_jax.models import flops, parameters
from tgvlm_jax.schema import Experiment
from tgvlm_jax.train import step

KEY = jax.random.key(0)
BLUEPRINT = parameters.blueprint(CONFIG)


def test_names_and_shapes_are_those_of_the_blueprint():
    params = parameters.init(CONFIG, jax.random.key(0))
    assert {name: value.shape for name, value in params.items()} == BLUEPRINT.shapes
    assert params["decoder.blocks.q.weight"].shape == (3, 16, 2, 2, 8)
    assert parameters.blueprint(CONFIG) is BLUEPRINT  # a static argument: made once


def test_layers_start_different_and_the_key_decides():
    one, same, other = (parameters.init(CONFIG, jax.random.key(seed)) for seed in (0, 0, 1))
    weight = np.asarray(one["decoder.blocks.q.weight"])
    assert np.abs(weight[0] - weight[1]).max() > 0.1
    np.testing.assert_array_equal(same["decoder.blocks.q.weight"], weight)
    assert np.abs(other["decoder.blocks.q.weight"] - weight).max() > 0.1
    assert abs(weight.std() * 16**0.5 - 0.88) < 0.1  # truncated normal over a fan-in of 16


def test_build_puts_every_array_back():
    params = random_params()
    model = BLUEPRINT.build(params)
    np.testing.assert_array_equal(
        model.evidence.frame_head.up.bias[...], params["evidence.frame_head.up.bias"]
    )
    np.testing.assert_array_equal(model.tower.blocks.q.weight[...], params["tower.blocks.q.weight"])


def test_matrices_know_their_inputs_and_outputs():
    matrices = BLUEPRINT.matrices
    assert all(name.endswith(".weight") for name in matrices)
    tables = {name for name in BLUEPRINT.shapes if name.endswith(("table", "scale", "position"))}
    assert not tables & set(matrices)
    expected = {
        "decoder.blocks.q.weight": ((1,), (2, 3, 4)),
        "decoder.blocks.o.weight": ((1, 2, 3), (4,)),
        "tower.patches.weight": ((0, 1), (2,)),
        "evidence.frame_head.down.weight": ((0,), (1,)),
    }
    found = {name: (matrices[name].inputs, matrices[name].outputs) for name in expected}
    assert found == expected


def test_flops_are_those_that_xla_counts():
    """XLA sees every product of the gradient where layers are unrolled; ours adds no small ones."""
    config = dataclasses.replace(CONFIG, unroll=CONFIG.decoder.layers)
    experiment, blueprint = Experiment(model=config), parameters.blueprint(config)
    made = batch()

    def gradients(params):
        return step.gradients(params, made, KEY, blueprint=blueprint, experiment=experiment)[0]

    like = {n: jax.ShapeDtypeStruct(s, "float32") for n, s in blueprint.shapes.items()}
    counted = jax.jit(gradients).lower(like).cost_analysis()["flops"]
    assert 0.8 < flops.per_step(CONFIG, made, trained=set(like)) / counted < 1.0
