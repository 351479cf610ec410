"""The loss terms against NumPy, and that padding and company change neither sums nor gradients."""

import dataclasses

import jax
import numpy as np
import pytest

from tests.models.tiny import CONFIG, RAGGED, batch, gradients, random_params, read, sample
from tgvlm_jax.models import parameters
from tgvlm_jax.objectives import sft
from tgvlm_jax.schema import Experiment, SftConfig


@pytest.fixture(scope="module")
def params():
    return random_params()


def cross_entropy(scores, targets):
    chance = 1 / (1 + np.exp(-scores.astype(np.float64)))
    return -(targets * np.log(chance) + (1 - targets) * np.log(1 - chance))


@pytest.mark.parametrize("alpha", [2.0, 0.0])
def test_terms_are_what_they_say(alpha, params):
    """Sample by sample, mention by mention, frame by frame."""
    config = SftConfig(alpha=alpha)
    made = batch()
    model = parameters.blueprint(CONFIG)
    found = jax.jit(lambda p: sft.sums(model.build(p), made, config=config))(params)
    _, predicted = read(params, made)
    logits = jax.jit(lambda p, x: model.build(p).decoder.logits(x))(params, predicted.final)
    logits = np.asarray(logits, np.float64)

    language, grounding, consistency = 0.0, 0.0, 0.0
    for row, (one, encoded) in enumerate(RAGGED):
        for i, token in enumerate(encoded.response):
            language += np.log(np.exp(logits[row, i]).sum()) - logits[row, i, token]
        frames, bce, gaps = np.arange(len(one.frames)), [], []
        for number, (start, end) in enumerate(one.spans):
            first, last = start, end - 1
            distance = np.clip(np.maximum(first - frames, frames - last), 0, None)
            targets = alpha**-distance if alpha else (distance == 0).astype(float)
            mentions = (number, 2 + number)
            for slot in mentions:
                scores = np.asarray(predicted.scores[row, slot, : len(frames)])
                bce.append(cross_entropy(scores, targets).mean())
            one_query, other = (np.asarray(predicted.queries[row, slot]) for slot in mentions)
            gaps.append(np.abs(one_query - other).mean())
        grounding += np.mean(bce) if bce else 0.0
        consistency += np.mean(gaps) if gaps else 0.0

    assert float(found["language"]) == pytest.approx(language, rel=1e-5)
    assert float(found["grounding"]) == pytest.approx(grounding, rel=1e-5)
    assert float(found["consistency"]) == pytest.approx(consistency, rel=1e-5)


def test_weights_count_answer_tokens_and_grounded_samples():
    weights = {name: float(value) for name, value in sft.weights(batch()).items()}
    tokens = sum(len(encoded.response) for _, encoded in RAGGED)
    assert weights == {"language": tokens, "grounding": 3, "consistency": 3}


def test_coefficients_are_those_of_the_config():
    whole = Experiment(objective=SftConfig(grounding=3.0, consistency=0.5))
    found = sft.coefficients(whole)
    assert found == {"language": 1.0, "grounding": 3.0, "consistency": 0.5}
    speaks = dataclasses.replace(whole.model, evidence=None)
    assert sft.coefficients(dataclasses.replace(whole, model=speaks)) == {"language": 1.0}


def assert_same(found, wanted):
    """Gradients relative to the largest entry of each array; terms to 1e-5."""
    for name, term in wanted[1].items():
        other = found[1][name]
        assert float(other.sum) == pytest.approx(float(term.sum), rel=1e-5), name
        assert float(other.weight) == float(term.weight), name
    for name, gradient in wanted[0].items():
        size = max(1.0, float(np.abs(gradient).max()))
        np.testing.assert_allclose(found[0][name], gradient, atol=1e-5 * size, err_msg=name)


SHORT = (RAGGED[1], sample(5, frames=3, words=2)) * 2  # they fit the smaller buckets


def test_padding_of_every_kind_changes_neither_loss_nor_gradient(params):
    tight = gradients(params, batch(SHORT, frames=4, prompt=9, response=7, events=1))
    assert_same(gradients(params, batch(SHORT)), tight)


def test_a_ragged_batch_is_the_sum_of_its_samples(params):
    """With coefficients and weights out of the way: sums add up, whatever the company."""
    made = batch()

    @jax.jit
    @jax.value_and_grad
    def total(params, made):
        sums = sft.sums(parameters.blueprint(CONFIG).build(params), made, config=SftConfig())
        return sum(sums.values())

    singles = [
        total(params, jax.tree.map(lambda x, i=i: x[i : i + 1], made)) for i in range(len(RAGGED))
    ]
    value, gradient = total(params, made)
    assert float(value) == pytest.approx(sum(float(one) for one, _ in singles), rel=1e-5)
    for name, wanted in gradient.items():
        added = sum(np.asarray(one[name], np.float64) for _, one in singles)
        size = max(1.0, np.abs(added).max())
        np.testing.assert_allclose(wanted, added, atol=1e-5 * size, err_msg=name)


def test_samples_without_evidence_train_language_only(params):
    plain = batch((RAGGED[2],) * 4)
    grads, terms = gradients(params, plain)
    assert {name: float(term.sum) > 0 for name, term in terms.items()} == {
        "language": True,
        "grounding": False,
        "consistency": False,
    }
    heads = [name for name in grads if name.startswith("evidence.")]
    assert heads
    for name in heads:
        np.testing.assert_array_equal(grads[name], 0)
    assert all(np.all(np.isfinite(value)) for value in grads.values())


def test_huge_scores_give_finite_losses_and_gradients(params):
    wild = dict(params)
    for name in ("evidence.frame_head.up.weight", "evidence.evidence_head.up.weight"):
        wild[name] = 1e4 * params[name]
    grads, terms = gradients(wild, batch())
    assert float(terms["grounding"].sum) > 1e4
    assert np.isfinite(float(terms["grounding"].sum))
    assert all(np.all(np.isfinite(value)) for value in grads.values())


def test_the_prompt_may_be_learned_too(params):
    """Its text behind the first token, of each sample as if it stood alone."""
    made, model = batch(), parameters.blueprint(CONFIG)
    config = SftConfig(loss_on_prompt=True)

    @jax.jit
    def both(p):
        built = model.build(p)
        states = built.states(made.prompt).final
        found = [sft.sums(built, made, config=c)["language"] for c in (config, SftConfig())]
        return found, built.decoder.logits(states)

    (with_prompt, without), logits = both(params)
    wanted, count = 0.0, 0
    for row, (_, encoded) in enumerate(RAGGED):
        for place in np.flatnonzero(encoded.visual_index[1:] < 0):
            scores = np.asarray(logits[row, place], np.float64)
            wanted += np.log(np.exp(scores).sum()) - scores[encoded.prompt[place + 1]]
            count += 1
    assert float(with_prompt - without) == pytest.approx(wanted, rel=1e-4)
    found = sft.weights(made, on_prompt=True)["language"] - sft.weights(made)["language"]
    assert float(found) == count
