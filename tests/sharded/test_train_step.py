"""One step on a mesh against the same step on one device: losses, gradients, updates, layouts."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from tests.models.tiny import CONFIG, EXPERIMENT, RAGGED, batch, gradients, random_params
from tgvlm_jax import mesh as mesh_lib
from tgvlm_jax.models import parameters
from tgvlm_jax.ops.masks import causal_mask
from tgvlm_jax.schema import Experiment, MeshConfig, OptimConfig, TrainConfig
from tgvlm_jax.train import optim, state
from tgvlm_jax.train.step import make_step

MESHES = {
    "fsdp4_tp2": MeshConfig(fsdp=4, tp=2),
    "fsdp8": MeshConfig(fsdp=8),
    "dcn2_fsdp2_tp2": MeshConfig(dcn=2, fsdp=2, tp=2),
    "gathered_once": MeshConfig(dcn=2, fsdp=2, tp=2, gather="step"),
}
# The layout of some parameters of every kind; "embed" is fsdp, "heads", "mlp" and "vocab" are tp.
LAYOUTS = {
    "decoder.blocks.q.weight": P(None, "fsdp", "tp", None, None),
    "decoder.blocks.k.weight": P(None, "fsdp", "tp", None),
    "decoder.blocks.o.weight": P(None, "tp", None, None, "fsdp"),
    "decoder.blocks.gate.weight": P(None, "fsdp", "tp"),
    "decoder.blocks.down.weight": P(None, "tp", "fsdp"),
    "decoder.blocks.mlp_norm.scale": P(None, None),
    "decoder.embedding.table": P("tp", "fsdp"),
    "decoder.norm.scale": P(None),
    "evidence.frame_head.down.weight": P("fsdp", "tp"),
    "evidence.frame_head.down.bias": P("tp"),
    "evidence.frame_head.up.weight": P("tp", "fsdp"),
    "tower.blocks.up.weight": P(None, "fsdp", None),
    "tower.projector.weight": P(None, "fsdp", None),
    "tower.position": P(None, None),
}


def spec(x):
    """The layout, without the trailing Nones that jax may or may not write."""
    return P(*x.sharding.spec, *(None,) * (x.ndim - len(x.sharding.spec)))


def rows():
    """Eight ragged rows on the host."""
    return jax.tree.map(np.asarray, batch(RAGGED * 2))


def laid_out(params, mesh, config=CONFIG):
    """Values of `params` in the layout that `parameters.init` gives."""
    like = jax.eval_shape(lambda: parameters.init(config, jax.random.key(0)))
    return {
        name: jax.device_put(np.asarray(value), NamedSharding(mesh, like[name].sharding.spec))
        for name, value in params.items()
    }


def assert_close(found, wanted, name):
    """To 1e-5 of the largest entry (or of 1, where all are smaller)."""
    size = max(1.0, float(np.abs(wanted).max()))
    np.testing.assert_allclose(np.asarray(found), wanted, atol=1e-5 * size, err_msg=name)


@pytest.fixture(scope="module")
def alone():
    params = random_params()
    return params, gradients(params, jax.device_put(rows()))


@pytest.mark.parametrize(
    "name",
    [
        name if name == "fsdp4_tp2" else pytest.param(name, marks=pytest.mark.slow)
        for name in MESHES
    ],
)
def test_losses_and_gradients_equal_those_of_one_device(name, alone):
    params, (wanted, terms) = alone
    mesh = mesh_lib.make(MESHES[name])
    mesh_lib.check(CONFIG, mesh, batch_size=8, frames=(6,), data=EXPERIMENT.data)
    experiment = dataclasses.replace(EXPERIMENT, mesh=MESHES[name])
    with mesh_lib.use(mesh):
        put = mesh_lib.put_batch(rows(), mesh)
        found, found_terms = gradients(laid_out(params, mesh), put, experiment)
    for term, value in terms.items():
        assert float(found_terms[term].sum) == pytest.approx(float(value.sum), rel=1e-5), term
        assert float(found_terms[term].weight) == float(value.weight), term
    for path, gradient in wanted.items():
        assert_close(found[path], gradient, path)
        assert spec(found[path]) == LAYOUTS.get(path, spec(found[path])), path


def decoded(model):
    """A loss of the decoder alone, as a function of all parameters and of tokens."""

    def loss(params, tokens):
        decoder = parameters.blueprint(model).build(params).decoder
        order = jnp.arange(tokens.shape[1], dtype=jnp.int32)
        places = jnp.broadcast_to(order, tokens.shape)
        states = decoder(
            decoder.embed(tokens),
            turn=decoder.rotation(places),
            mask=causal_mask(places, jnp.ones_like(tokens, dtype=bool)),
        )
        return jnp.mean(jnp.square(decoder.logits(states.final)))

    return jax.jit(jax.value_and_grad(loss))


def test_what_does_not_divide_lies_whole_on_every_chip():
    """2 key heads, 34 hidden values and 33 tokens over 4 chips; what divides is cut."""
    sizes = dataclasses.replace(CONFIG.decoder, vocab_size=33, hidden=34, layers=2)
    model = dataclasses.replace(CONFIG, tower=None, evidence=None, decoder=sizes, remat="sums")
    params, tokens = random_params(model), np.arange(8 * 5, dtype=np.int32).reshape(8, 5) % 33
    mesh = mesh_lib.make(MeshConfig(fsdp=2, tp=4))
    mesh_lib.check(model, mesh, batch_size=8, frames=(), data=EXPERIMENT.data)
    wanted, gradient = decoded(model)(params, tokens)
    with mesh_lib.use(mesh):
        put = laid_out(params, mesh, model)
        found, gradients = decoded(model)(put, mesh_lib.put_batch(tokens, mesh))
    layouts = {
        "decoder.blocks.q.weight": P(None, "fsdp", None, None, None),
        "decoder.blocks.gate.weight": P(None, "fsdp", None),
        "decoder.embedding.table": P(None, "fsdp"),
    }
    for path, layout in layouts.items():
        assert spec(put[path]) == spec(gradients[path]) == layout, path
    assert float(found) == pytest.approx(float(wanted), rel=1e-6)
    for path, value in gradient.items():
        assert_close(gradients[path], value, path)


def test_gradients_of_weights_are_scattered_not_summed_on_every_chip():
    """Those of a layer in the passes over the prompt and over the answer, or of both at once."""
    scattered = {}
    for gather in ("layer", "step"):
        experiment = dataclasses.replace(EXPERIMENT, mesh=MeshConfig(fsdp=8, gather=gather))
        mesh = mesh_lib.make(experiment.mesh)
        with mesh_lib.use(mesh):
            params = jax.eval_shape(lambda: parameters.init(CONFIG, jax.random.key(0)))
            lowered = gradients.lower(params, mesh_lib.put_batch(rows(), mesh), experiment)
        scattered[gather] = lowered.as_text().count("stablehlo.reduce_scatter")
    weights = parameters.blueprint(CONFIG).matrices
    layer = sum(name.startswith("decoder.blocks.") for name in weights)
    assert scattered["layer"] == scattered["step"] + layer
    assert scattered["step"] > layer  # those, the tower's, the heads'


def test_parameters_and_optimiser_state_start_in_their_layouts():
    mesh = mesh_lib.make(MESHES["fsdp4_tp2"])
    with mesh_lib.use(mesh):
        _, tx = experiment_parts(EXPERIMENT)
        fresh = jax.jit(lambda: state.create(EXPERIMENT, tx))()
    for path, layout in LAYOUTS.items():
        assert spec(fresh.params[path]) == layout, path
    params = {path: (x.shape, spec(x)) for path, x in fresh.params.items()}
    moments = [x for x in jax.tree.leaves(fresh.opt_state) if x.ndim]
    assert len(moments) == 2 * len(params)
    assert sorted(map(str, ((x.shape, spec(x)) for x in moments))) == sorted(
        map(str, [*params.values()] * 2)
    )
    scalars = [x for x in jax.tree.leaves(fresh.opt_state) if not x.ndim]
    assert all(x.sharding.is_fully_replicated for x in [fresh.step, *scalars])


def test_values_drawn_on_a_mesh_are_those_of_one_device():
    mesh = mesh_lib.make(MESHES["fsdp4_tp2"])
    one = parameters.init(CONFIG, jax.random.key(3))
    with mesh_lib.use(mesh):
        many = parameters.init(CONFIG, jax.random.key(3))
    for path, value in one.items():
        np.testing.assert_allclose(many[path], value, atol=1e-6, err_msg=path)


def experiment_parts(experiment):
    blueprint = parameters.blueprint(experiment.model)
    shapes = jax.eval_shape(lambda: parameters.init(experiment.model, jax.random.key(0)))
    tx = optim.build(experiment.optim, shapes, matrices=blueprint.matrices, steps=10)
    return blueprint, tx


@pytest.mark.parametrize(
    ("name", "accumulate"), [("adamw", 2), pytest.param("muon", 1, marks=pytest.mark.slow)]
)
def test_updates_equal_those_of_one_device(name, accumulate):
    """Three steps, so that the state that a step wrote is read by the next.

    The first step's terms must agree to 1e-5. Adam divides by the root of tiny second moments, so
    its updates amplify rounding, and what follows may differ by a little more.
    """
    experiment = Experiment(
        model=CONFIG,
        optim=OptimConfig(name=name, lr=1e-2, warmup_steps=1),
        train=TrainConfig(accumulate=accumulate, steps=10),
    )

    def run(mesh):
        with mesh_lib.use(mesh):
            blueprint, tx = experiment_parts(experiment)
            current = jax.jit(lambda: state.create(experiment, tx))()
            step = make_step(blueprint, tx, experiment)
            losses = []
            for _ in range(3):
                current, metrics = step(current, mesh_lib.put_batch(rows(), mesh))
                losses.append({key: float(value) for key, value in metrics.items()})
        return current, losses

    (one, wanted), (many, found) = run(None), run(mesh_lib.make(MESHES["fsdp4_tp2"]))
    assert abs(wanted[2]["language.sum"] - wanted[0]["language.sum"]) > 1.0
    for number, (mine, theirs) in enumerate(zip(found, wanted, strict=True)):
        assert mine == pytest.approx(theirs, rel=1e-4 if number else 1e-5), number
    for path, layout in LAYOUTS.items():
        assert spec(many.params[path]) == layout, path
    assert int(many.step) == 3
    for path, value in one.params.items():
        if not path.endswith("k.bias"):  # the softmax takes it out: its gradient is rounding alone
            np.testing.assert_allclose(many.params[path], value, atol=2e-3, err_msg=path)


def test_the_tower_spreads_frames_over_tensor_parallel_devices():
    mesh = mesh_lib.make(MESHES["fsdp4_tp2"])
    with mesh_lib.use(mesh):
        x = mesh_lib.shard(jnp.zeros((8, 6, 2)), "batch", "frames", None)
        assert x.addressable_shards[0].data.shape == (2, 3, 2)
