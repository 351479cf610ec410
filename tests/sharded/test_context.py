"""A prompt spread over devices (mesh axis `cp`) against the same on one device."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.models.tiny import CONFIG, EXPERIMENT, RAGGED, batch, gradients, random_params
from tests.sharded.test_train_step import assert_close, laid_out
from tgvlm_jax import mesh as mesh_lib
from tgvlm_jax.models import context, parameters
from tgvlm_jax.objectives.grpo import PolicyBatch
from tgvlm_jax.ops import attention
from tgvlm_jax.ops.attention import KeyValues
from tgvlm_jax.ops.masks import causal_mask, earlier_mask
from tgvlm_jax.ops.parts import attend_parts
from tgvlm_jax.rollout.sampler import generate
from tgvlm_jax.schema import GrpoConfig, MeshConfig, PolicyConfig, SftConfig
from tgvlm_jax.types import InputError


def rows():
    """Eight ragged rows whose prompts and frames divide by eight."""
    return jax.tree.map(np.asarray, batch(RAGGED * 2, frames=8, prompt=16))


def answered():
    """The same prompts with two answers each, as a rollout leaves them."""
    rng, made = np.random.default_rng(0), rows()
    response = jax.tree.map(lambda x: np.stack([x, x[::-1]], axis=1), made.response)
    shape = response.mask.shape
    return PolicyBatch(
        prompt=made.prompt,
        response=response,
        advantages=rng.standard_normal(shape).astype(np.float32),
        log_probs=-3 * rng.random(shape, np.float32),
        ref_log_probs=-3 * rng.random(shape, np.float32),
    )


def compare(mesh, *, experiment=EXPERIMENT, made=rows):
    """Losses to 1e-5 of theirs, gradients to 1e-5 of their largest entry (or of 1)."""
    params = random_params(experiment.model)
    wanted, terms = gradients(params, jax.device_put(made()), experiment=experiment)
    mesh = mesh_lib.make(mesh)
    with mesh_lib.use(mesh):
        placed = laid_out(params, mesh, experiment.model), mesh_lib.put_batch(made(), mesh)
        found, sums = gradients(*placed, experiment=experiment)
    for name, term in terms.items():
        assert float(sums[name].sum) == pytest.approx(float(term.sum), rel=1e-5), name
    for name, value in wanted.items():
        assert_close(found[name], np.asarray(value), name)


def test_losses_and_gradients_with_evidence():
    compare(MeshConfig(fsdp=2, tp=2, cp=2))


@pytest.mark.slow
def test_answers_of_a_group_share_a_spread_prompt():
    answers = {"reward": "grounding", "num_generations": 2, "reference": "copy"}
    config = GrpoConfig(**answers, policy=PolicyConfig(kl=0.1))
    one = dataclasses.replace(EXPERIMENT, objective=config)
    compare(MeshConfig(fsdp=2, cp=4), experiment=one, made=answered)


@pytest.mark.slow
@pytest.mark.parametrize("remat", ["none", "full", "dots"])
def test_four_devices_to_a_prompt(remat):
    """Plain causal text behind frames, a window, a loss on the prompt."""
    decoder = dataclasses.replace(CONFIG.decoder, sliding_window=9)
    model = dataclasses.replace(CONFIG, decoder=decoder, two_way_frames=False, remat=remat)
    learned = SftConfig(loss_on_prompt=True)
    one = dataclasses.replace(EXPERIMENT, model=model, objective=learned)
    compare(MeshConfig(fsdp=2, cp=4), experiment=one)


def test_every_device_has_a_piece_from_the_front_and_one_from_the_back():
    assert list(context.slots(8)) == list(range(8))
    with mesh_lib.use(mesh_lib.make(MeshConfig(cp=2))):
        assert list(context.slots(8)) == [0, 1, 6, 7, 2, 3, 4, 5]
        x = mesh_lib.shard(jnp.arange(16).reshape(2, 8), "batch", None)
        dealt = jax.jit(context.deal)(x)
        np.testing.assert_array_equal(dealt, np.asarray(x)[:, context.slots(8)])
        assert mesh_lib.axis_of(dealt, 1) == "cp"
        np.testing.assert_array_equal(jax.jit(context.collect)(dealt), x)
        with pytest.raises(InputError, match=r"6 slots .* mesh.cp=2: .* multiple of 4"):
            context.slots(6)


@pytest.mark.slow
def test_answers_to_a_spread_prompt():
    """Greedy decoding with evidence, two answers to a prompt."""
    params, prompt = random_params(), rows().prompt
    blueprint = parameters.blueprint(CONFIG)
    free = {"evidence_id": -1, "end_id": -1, "pad_id": 0, "max_tokens": 6, "samples": 2}
    first = generate(params, jax.device_put(prompt), blueprint=blueprint, **free)
    settings = free | {"evidence_id": int(first.tokens[0, 0])}
    wanted = generate(params, jax.device_put(prompt), blueprint=blueprint, **settings)
    assert np.any(wanted.tokens != first.tokens)
    mesh = mesh_lib.make(MeshConfig(fsdp=2, tp=2, cp=2))
    with mesh_lib.use(mesh):
        placed = laid_out(params, mesh), mesh_lib.put_batch(prompt, mesh)
        found = generate(*placed, blueprint=blueprint, **settings)
    np.testing.assert_array_equal(found.tokens, wanted.tokens)
    np.testing.assert_array_equal(found.grounding.spans, wanted.grounding.spans)


@pytest.mark.parametrize("kernels", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_ring_and_a_shared_prompt_equal_plain_attention(kernels, monkeypatch):
    """A prompt's own pass, and two answers to it, in values and gradients."""
    rng = np.random.default_rng(0)

    def normal(*shape):
        return jnp.asarray(rng.standard_normal(shape), jnp.float32)

    filled = jnp.asarray(np.arange(16) < [[16], [11]])
    order = jnp.where(filled, jnp.arange(16), 0)
    frames = jnp.asarray((np.arange(16) > 2) & (np.arange(16) < 8)) & filled
    own = KeyValues(k=normal(2, 2, 16, 8), v=normal(2, 2, 16, 8))
    said = KeyValues(k=normal(4, 2, 3, 8), v=normal(4, 2, 3, 8))
    q, asks = normal(2, 16, 2, 2, 8), normal(4, 3, 2, 2, 8)
    steps = jnp.broadcast_to(jnp.arange(3), (4, 3))
    of_answers = causal_mask(steps, jnp.ones((4, 3), bool))
    if kernels:

        def in_kernels(*args, **settings):
            return attend_parts(*args, **settings | {"pallas": True, "interpret": True})

        monkeypatch.setattr(attention, "attend_parts", in_kernels)

    @jax.jit
    def both(q, own, asks, said, filled, order, frames):
        deal = context.deal
        slots = jnp.asarray(context.slots(16))
        prompt = causal_mask(deal(order), deal(filled), block=deal(frames))
        spread = KeyValues(k=deal(own.k, 2), v=deal(own.v, 2))
        if mesh_lib.size("context") > 1:
            slots = mesh_lib.shard(slots, "context")
        earlier = earlier_mask(deal(filled), jnp.zeros(1, jnp.int32), slots=slots)

        def run(q, spread, asks, said):
            ready = attention.ready((prompt,), queries=16)
            seen = attention.attend(q, (spread,), ready)
            masks = attention.ready((earlier, of_answers), queries=3)
            return context.collect(seen), attention.attend(asks, (spread, said), masks)

        out, pull = jax.vjp(run, deal(q), spread, asks, said)
        of_q, of_keys, *rest = pull(jax.tree.map(lambda x: jnp.sin(3 * x), out))
        return out, context.collect(of_q), context.collect(of_keys.k, 2), rest

    given = (q, own, asks, said, filled, order, frames)
    wanted = both(*given)
    mesh = mesh_lib.make(MeshConfig(fsdp=2, cp=4))
    with mesh_lib.use(mesh):
        found = both(*mesh_lib.put_batch(jax.tree.map(np.asarray, given), mesh))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=5e-6), found, wanted)
