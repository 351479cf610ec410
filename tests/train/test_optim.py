import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from optax import contrib

from tests.models.tiny import CONFIG
from tgvlm_jax.models import parameters
from tgvlm_jax.models.parameters import Matrix
from tgvlm_jax.schema import GroupConfig, OptimConfig
from tgvlm_jax.train import optim
from tgvlm_jax.types import InputError

PARAMS = {
    "tower.blocks.q.weight": jnp.ones((2, 3)),
    "tower.norm.scale": jnp.ones(3),
    "decoder.blocks.q.weight": jnp.ones((2, 3)),
    "decoder.embedding.table": jnp.ones((4, 3)),
}
GRADS = jax.tree.map(lambda x: 0.01 * jnp.ones_like(x), PARAMS)


def first_update(groups=(), **settings):
    """How far the first step (at full learning rate) moves each parameter."""
    config = OptimConfig(warmup_steps=0, groups=groups, **{"lr": 0.1, "clip": 0.0} | settings)
    tx = optim.build(config, PARAMS, matrices={}, steps=10)
    updates, _ = tx.update(GRADS, tx.init(PARAMS), PARAMS)
    assert all(np.ptp(update) < 1e-6 for update in updates.values())
    return {name: float(update.ravel()[0]) for name, update in updates.items()}


def test_the_first_group_that_matches_counts():
    groups = (
        GroupConfig(pattern=r"norm\.scale$", frozen=True),
        GroupConfig(pattern=r"^tower\.", lr_scale=0.1),
    )
    moved = first_update(groups)
    assert moved == {
        "tower.blocks.q.weight": pytest.approx(-0.01, rel=1e-4),
        "tower.norm.scale": 0.0,
        "decoder.blocks.q.weight": pytest.approx(-0.1, rel=1e-4),
        "decoder.embedding.table": pytest.approx(-0.1, rel=1e-4),
    }


def test_a_frozen_group_has_no_optimiser_state():
    config = OptimConfig(groups=(GroupConfig(pattern="^tower", frozen=True),))
    state = optim.build(config, PARAMS, matrices={}, steps=10).init(PARAMS)
    kept = [x.size for x in jax.tree.leaves(state) if x.ndim]
    assert sum(kept) == 2 * (6 + 12)  # two moments of the decoder's parameters


@pytest.mark.parametrize(
    ("pattern", "says"),
    [
        ("towre", r"optim.groups\[1\]: 'towre' matches no parameter"),
        ("(", r"optim.groups\[1\]: '\('"),
    ],
)
def test_a_pattern_that_is_wrong_is_named(pattern, says):
    groups = (GroupConfig(pattern="tower"), GroupConfig(pattern=pattern))
    with pytest.raises(InputError, match=says):
        optim.build(OptimConfig(groups=groups), PARAMS, matrices={}, steps=10)


def test_a_group_that_only_repeats_an_earlier_one_is_named():
    groups = (GroupConfig(pattern="tower"), GroupConfig(pattern="tower.norm"))
    with pytest.raises(InputError, match="matches no parameter"):
        optim.build(OptimConfig(groups=groups), PARAMS, matrices={}, steps=10)


def test_clipping_is_by_the_global_norm():
    """Adam hides the size of a gradient, its second moment shows it."""
    config = OptimConfig(clip=0.5)
    tx = optim.build(config, PARAMS, matrices={}, steps=10)
    grads = jax.tree.map(lambda x: 3.0 * jnp.ones_like(x), PARAMS)
    _, state = tx.update(grads, tx.init(PARAMS), PARAMS)
    moments = optax.tree.get(state, "mu")
    count = sum(x.size for x in jax.tree.leaves(PARAMS))
    wanted = 0.1 * 0.5 / count**0.5
    np.testing.assert_allclose(moments["tower.norm.scale"], wanted, rtol=1e-4)


def test_weight_decay_pulls_towards_zero():
    plain, decayed = first_update(), first_update(weight_decay=0.5)
    for name, update in plain.items():
        assert decayed[name] == pytest.approx(update - 0.1 * 0.5 * 1.0, rel=1e-4)


def test_schedule_end_points():
    rate = optim.schedule(OptimConfig(lr=0.2, warmup_steps=10, final_lr=0.05), steps=100)
    found = [float(rate(step)) for step in (0, 5, 10, 55, 100, 1000)]
    halfway = 0.2 * (0.05 + 0.95 / 2)
    assert found == pytest.approx([0.0, 0.1, 0.2, halfway, 0.01, 0.01], rel=1e-5)


@pytest.mark.parametrize(("warmup", "steps"), [(0, 1), (0, 5), (20, 1), (20, 5)])
def test_short_runs_have_a_schedule_too(warmup, steps):
    rate = optim.schedule(OptimConfig(lr=0.2, warmup_steps=warmup, final_lr=0.1), steps=steps)
    values = [float(rate(step)) for step in range(steps + 1)]
    assert max(values) == pytest.approx(0.2)
    assert values[-1] == pytest.approx(0.02) or steps == 1
    assert all(np.isfinite(values))


def test_muon_works_on_a_stacked_weight_as_on_its_matrices():
    """[layer, heads, size, width] with heads x size as inputs: each layer is one 12 x 5 matrix."""
    rng = np.random.default_rng(0)
    params = jnp.asarray(rng.standard_normal((2, 3, 4, 5), np.float32))
    grads = [jnp.asarray(rng.standard_normal((2, 3, 4, 5), np.float32)) for _ in range(2)]
    config = OptimConfig(name="muon", lr=0.1, warmup_steps=0, weight_decay=0.1, clip=0.0)
    tx = optim.build(
        config,
        {"o.weight": params, "bias": params[0, 0, 0]},
        matrices={"o.weight": Matrix(inputs=(1, 2), outputs=(3,))},
        steps=10,
    )
    plain = contrib.muon(
        optim.schedule(config, steps=10), weight_decay=0.1, consistent_rms=0.2, adam_b2=0.999
    )

    def two_steps(tx, params, grads):
        state = tx.init(params)
        for gradient in grads:
            updates, state = tx.update(gradient, state, params)
        return updates

    stacked = two_steps(
        tx,
        {"o.weight": params, "bias": params[0, 0, 0]},
        [{"o.weight": g, "bias": g[0, 0, 0]} for g in grads],
    )
    with jax.numpy_dtype_promotion("standard"):
        for layer in range(2):
            flat = [{"w": g[layer].reshape(12, 5)} for g in grads]
            wanted = two_steps(plain, {"w": params[layer].reshape(12, 5)}, flat)["w"]
            np.testing.assert_allclose(stacked["o.weight"][layer].reshape(12, 5), wanted, atol=1e-5)
        flat = [{"w": g[0, 0, 0]} for g in grads]
        wanted = two_steps(plain, {"w": params[0, 0, 0]}, flat)["w"]
    np.testing.assert_allclose(stacked["bias"], wanted, atol=1e-6)


def test_muon_takes_the_matrices_of_a_model_and_adam_the_rest():
    blueprint = parameters.blueprint(CONFIG)
    params = {name: jnp.zeros(shape) for name, shape in blueprint.shapes.items()}
    tx = optim.build(
        OptimConfig(name="muon", groups=(GroupConfig(pattern="^tower", lr_scale=0.5),)),
        params,
        matrices=blueprint.matrices,
        steps=10,
    )
    state = jax.eval_shape(tx.init, params)
    adam = {
        leaf.key
        for path, _ in jax.tree_util.tree_leaves_with_path(state)
        for leaf in path[-1:]
        if any(getattr(part, "name", "") == "nu" for part in path)
    }
    assert adam == set(blueprint.shapes) - set(blueprint.matrices)


def test_a_linear_decay():
    config = OptimConfig(lr=0.2, decay="linear", warmup_steps=0, final_lr=0.0)
    rate = optim.schedule(config, steps=100)
    assert [float(rate(step)) for step in (0, 25, 100)] == pytest.approx([0.2, 0.15, 0.0])
    config = OptimConfig(lr=0.2, decay="linear", warmup_steps=10, final_lr=0.0)
    warm = optim.schedule(config, steps=110)
    assert [float(warm(step)) for step in (0, 5, 10, 60)] == pytest.approx([0.0, 0.1, 0.2, 0.1])
