"""Accumulation against the undivided batch, and the step against its parts."""

import dataclasses

import jax
import numpy as np
import optax
import pytest

from tests.models.tiny import CONFIG, EXPERIMENT, RAGGED, batch, gradients, random_params, sample
from tgvlm_jax.models import parameters
from tgvlm_jax.schema import OptimConfig, TrainConfig
from tgvlm_jax.train import optim
from tgvlm_jax.train.state import TrainState
from tgvlm_jax.train.step import make_step

# Micro-batches as uneven as they come: the first of two holds the rows without any evidence.
ROWS = (RAGGED[2], RAGGED[0], sample(8, frames=1, words=1, spans=()), RAGGED[3])


@pytest.fixture(scope="module")
def params():
    return random_params()


def accumulating(count):
    return dataclasses.replace(EXPERIMENT, train=TrainConfig(accumulate=count))


@pytest.mark.parametrize("count", [2, 4])
def test_accumulation_equals_the_undivided_batch(count, params):
    wanted, terms = gradients(params, batch(ROWS))
    found, found_terms = gradients(params, batch(ROWS), experiment=accumulating(count))
    for name, term in terms.items():
        assert float(found_terms[name].sum) == pytest.approx(float(term.sum), rel=1e-5), name
        assert float(found_terms[name].weight) == float(term.weight), name
    for name, gradient in wanted.items():
        size = max(1.0, float(np.abs(gradient).max()))
        np.testing.assert_allclose(found[name], gradient, atol=1e-5 * size, err_msg=name)


def test_a_mean_of_the_micro_batches_means_would_not_do(params):
    """The test above can tell: what most trainers do is far off on these rows."""
    half = accumulating(2)
    parts = [batch(ROWS[i::2] * 2) for i in range(2)]
    means = [gradients(params, part)[0] for part in parts]
    wanted = gradients(params, batch(ROWS), experiment=half)[0]
    name = "decoder.norm.scale"
    naive = (np.asarray(means[0][name]) + np.asarray(means[1][name])) / 2
    assert np.abs(naive - wanted[name]).max() > 1e-2


@pytest.fixture(scope="module")
def one_step(params):
    """Two steps of plain accumulation by four, and of the undivided batch."""

    def run(count):
        experiment = dataclasses.replace(
            accumulating(count), optim=OptimConfig(lr=1e-3, warmup_steps=0)
        )
        blueprint = parameters.blueprint(CONFIG)
        tx = optim.build(experiment.optim, params, matrices=blueprint.matrices, steps=10)
        state = TrainState(
            step=jax.numpy.zeros((), "int32"),
            params=jax.tree.map(jax.numpy.array, params),  # the step gives their memory away
            opt_state=tx.init(params),
            key=jax.random.key(7),
        )
        step = make_step(blueprint, tx, experiment)
        old = state.params["decoder.norm.scale"]
        first, before = step(state, batch(ROWS))
        assert old.is_deleted()
        params_after = {name: np.array(value) for name, value in first.params.items()}
        second, after = step(first, batch(ROWS))
        return params_after, second, before, after

    return {count: run(count) for count in (1, 4)}


def loss(metrics):
    """The total, as the logger makes it."""
    scale = {"language": 1, "grounding": 10, "consistency": 10}
    return sum(
        c * float(metrics[f"{name}.sum"]) / float(metrics[f"{name}.weight"])
        for name, c in scale.items()
    )


def test_the_loss_after_an_update_is_the_same_too(one_step):
    (_, _, _, whole), (_, _, _, parts) = one_step[1], one_step[4]
    assert loss(parts) == pytest.approx(loss(whole), rel=1e-5)


def test_a_step_follows_its_gradient(one_step, params):
    after, state, before, later = one_step[1]
    assert loss(later) < loss(before) - 0.05
    assert int(state.step) == 2
    np.testing.assert_array_equal(
        jax.random.key_data(state.key), jax.random.key_data(jax.random.key(7))
    )
    grads, _ = gradients(params, batch(ROWS))
    assert float(before["grad_norm"]) == pytest.approx(float(optax.tree.norm(grads)), rel=1e-5)
    # Adam's first step is lr * sign(gradient), wherever the gradient is not tiny.
    for name, gradient in grads.items():
        clear = np.abs(gradient) > 1e-2
        moved = (after[name] - np.asarray(params[name]))[clear]
        np.testing.assert_allclose(moved, -1e-3 * np.sign(gradient[clear]), atol=2e-5)
