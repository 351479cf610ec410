"""The preference of pairs against NumPy, its relatives, and what padding must not change."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.models.tiny import CONFIG, batch, random_params, sample
from tgvlm_jax.models import parameters
from tgvlm_jax.objectives import fpo, sft
from tgvlm_jax.schema import Experiment, FpoConfig, GroupConfig, LoraConfig, SftConfig
from tgvlm_jax.train import step
from tgvlm_jax.types import Batch, InputError, PreferenceBatch

BASE = GroupConfig(pattern=r"^(?!.*lora_)", frozen=True)
MARGINS = np.array([-30.0, -1.0, 0.0, 0.5, 40.0], np.float32)
# Of one video each: the preferred answer and one with another span, or another number of them.
PAIRS = (
    (sample(1, spans=((0, 1), (2, 5))), sample(1, spans=((1, 4),), words=2)),
    (sample(2, frames=4), sample(2, frames=4, spans=((0, 0),))),
    (sample(3, frames=5, spans=()), sample(3, frames=5, spans=(), words=4)),
)


def pairs(numbers=(0, 1, 2), **sizes):
    preferred, rejected = zip(*(PAIRS[number] for number in numbers), strict=True)
    one, other = batch(preferred, **sizes), batch(rejected, **sizes)
    return PreferenceBatch(
        prompt=one.prompt,
        response=one.response,
        rejected=other.response,
        scored=one.response.mask,
        rejected_scored=other.response.mask,
    )


def sums(made, config, params=None, reference=None):
    blueprint = parameters.blueprint(CONFIG)
    params = random_params() if params is None else params

    @jax.jit
    def run(params, made):
        policy = blueprint.build(params)
        other = None if reference is None else blueprint.build(reference)
        return fpo.sums(policy, made, config=config, reference=other)

    return jax.device_get(run(params, made))


@pytest.mark.parametrize(
    ("loss", "wanted"),
    [
        ("sigmoid", np.logaddexp(0, -0.1 * MARGINS)),
        ("hinge", np.maximum(0, 1 - 0.1 * MARGINS)),
        ("ipo", (MARGINS - 5) ** 2),
    ],
)
def test_losses_of_a_margin(loss, wanted):
    found = fpo.preference_loss(jnp.asarray(MARGINS), config=FpoConfig(loss=loss))
    np.testing.assert_allclose(found, wanted, rtol=1e-5)


def test_supervised_terms_are_those_of_the_preferred_answer():
    made = pairs()
    blueprint, params = parameters.blueprint(CONFIG), random_params()
    alone = jax.jit(lambda p, b: sft.sums(blueprint.build(p), b, config=SftConfig()))
    wanted = alone(params, Batch(prompt=made.prompt, response=made.response))
    found = sums(made, FpoConfig(), params)
    for name, value in wanted.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-6)


def test_the_margin_is_antisymmetric_and_grounding_is_part_of_it():
    made = pairs()
    turned = dataclasses.replace(
        made,
        response=made.rejected,
        rejected=made.response,
        scored=made.rejected_scored,
        rejected_scored=made.scored,
    )
    one, other = sums(made, FpoConfig()), sums(turned, FpoConfig())
    np.testing.assert_allclose(one["margin"], -other["margin"], rtol=1e-4)
    assert one["accuracy"] + other["accuracy"] == len(PAIRS)
    for change in ({"grounding_in_preference": False}, {"preference_alpha": 0.0}):
        assert abs(sums(made, FpoConfig(**change))["margin"] - one["margin"]) > 1e-2


def test_pairs_add_up_whatever_the_padding():
    loose = {"frames": 8, "prompt": 18, "response": 20, "events": 3}
    together = sums(pairs(**loose), FpoConfig())
    tight = {"frames": 6, "prompt": 14, "response": 13}
    alone = [sums(pairs([number], **tight), FpoConfig()) for number in range(len(PAIRS))]
    for name, value in together.items():
        total = sum(one[name] for one in alone)
        np.testing.assert_allclose(value, total, rtol=2e-5, atol=1e-5, err_msg=name)


def test_a_reference_of_the_same_weights_leaves_no_margin():
    params = random_params()
    found = sums(pairs(), FpoConfig(reference="base"), params, reference=params)
    np.testing.assert_allclose(found["margin"], 0, atol=1e-4)
    with pytest.raises(InputError, match="needs adapters"):
        sums(pairs(), FpoConfig(reference="base"), params)


@pytest.mark.slow
def test_a_step_against_the_base_without_its_adapters():
    """Fresh adapters: no margin yet, but a gradient for them; the base has none of its own."""
    model = dataclasses.replace(CONFIG, lora=(LoraConfig(pattern=r"decoder\.blocks\.q$"),))
    frozen = dataclasses.replace(Experiment().optim, groups=(BASE,))
    experiment = Experiment(
        model=model, objective=FpoConfig(reference="base", supervised=0.0), optim=frozen
    )
    blueprint = parameters.blueprint(model)
    params = parameters.init(model, jax.random.key(0))
    key = jax.random.key(1)
    run = jax.jit(
        lambda p, b: step.gradients(p, b, key, blueprint=blueprint, experiment=experiment)
    )
    grads, terms = run(params, pairs())
    assert grads.keys() == {"decoder.blocks.q.lora_a", "decoder.blocks.q.lora_b"}
    np.testing.assert_allclose(terms["margin"].sum, 0, atol=1e-5)
    np.testing.assert_allclose(terms["preference"].sum, len(PAIRS) * np.log(2), rtol=1e-5)
    assert np.abs(grads["decoder.blocks.q.lora_b"]).max() > 1e-4
