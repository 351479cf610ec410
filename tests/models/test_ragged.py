"""A padded batch of unlike samples computes what each of them computes alone.

On the tiny twin of D2VLM: other numbers of frames, questions and answers, questions that point at
spans, answers without any; through the same collate as training.
"""

import dataclasses
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tgvlm_jax.config import freeze, load
from tgvlm_jax.data.chat import open_chat
from tgvlm_jax.data.collate import collate
from tgvlm_jax.models import parameters
from tgvlm_jax.objectives import sft
from tgvlm_jax.rollout.sampler import generate
from tgvlm_jax.schema import Experiment
from tgvlm_jax.train import optim
from tgvlm_jax.types import Sample

CONFIG = pathlib.Path(__file__).resolve().parent.parent.parent / "configs" / "d2vlm_sft.py"
FRAMES = (5, 12, 3, 8, 1, 10, 7, 12)
SPANS = (1, 2, 0, 1, 1, 3, 0, 2)
SOURCES = (0, 1, 1, 0, 0, 2, 0, 0)


def sample(number):
    rng = np.random.default_rng(number)
    count, spans, sources = FRAMES[number], SPANS[number], SOURCES[number]
    marks = [f"<evi> number {k}" for k in range(spans)]

    def drawn(many):
        return np.sort(rng.uniform(0, count, (many, 2)), axis=1)

    return Sample(
        frames=rng.integers(0, 256, (count, 28, 28, 3), np.uint8),
        seconds=np.arange(count, dtype=np.float64),
        duration=float(count),
        question="When" + " is it there" * (number % 3) + " <evi>" * sources + "?",
        answer="<evi>" * spans + "</evi> It is " + ", ".join(marks or ["nowhere"]) + ".",
        spans=drawn(spans),
        video="film",
        kind="made up",
        sources=drawn(sources),
        video_first=number != 3,
    )


@pytest.fixture(scope="module")
def experiment():
    """Text in one bucket, so that few programs are compiled."""
    one = freeze(load(f"{CONFIG}:tiny"), Experiment)
    data = dataclasses.replace(one.data, prompt_bucket=64, response_bucket=64, question_bucket=64)
    return dataclasses.replace(one, data=data)


@pytest.fixture(scope="module")
def params(experiment):
    """Adapters that do something, and a head that says little but `<evi>` and a few words."""
    made = parameters.init(experiment.model, jax.random.key(3))
    rng = np.random.default_rng(0)
    drawn = {
        name: jnp.asarray(value + 0.1 * rng.standard_normal(value.shape, np.float32))
        for name, value in sorted(made.items())
    }
    chat = open_chat(experiment.data)
    spoken = [chat.evidence_id, chat.evidence_id - 1, chat.evidence_id + 1, 40, 50]
    head = np.zeros_like(drawn["decoder.untied_head.table"])
    head[spoken] = rng.standard_normal((len(spoken), head.shape[1]))
    return drawn | {"decoder.untied_head.table": jnp.asarray(head)}


def batched(experiment, numbers):
    chat = open_chat(experiment.data)
    samples = [sample(number) for number in numbers]
    encoded = [chat.encode(one) for one in samples]
    # A sample alone is padded less than in the batch.
    frames = (16,) if len(samples) > 1 else (12,)
    config = dataclasses.replace(experiment.data, frames=frames)
    return collate(samples, encoded, config=config, pad_id=chat.pad_id)


@pytest.mark.slow
def test_losses_and_gradients(experiment, params):
    blueprint = parameters.blueprint(experiment.model)
    trained = optim.trainable(experiment.optim, params)

    @jax.jit
    def run(params, batch):
        def total(trained):
            model = blueprint.build(params | trained)
            terms = sft.sums(model, batch, config=experiment.objective)
            return sum(terms.values()), terms

        grads, terms = jax.grad(total, has_aux=True)({name: params[name] for name in trained})
        return terms, grads

    terms, grads = run(params, batched(experiment, range(8)))
    singles = [run(params, batched(experiment, [number])) for number in range(8)]
    for name, value in terms.items():
        alone = [float(one[name]) for one, _ in singles]
        np.testing.assert_allclose(value, sum(alone), rtol=2e-5, err_msg=name)
        assert sum(x > 0 for x in alone) >= 6
    for name, value in grads.items():
        alone = sum(np.asarray(one[name]) for _, one in singles)
        # Some are rounding alone: a bias of keys changes no softmax.
        atol = 1e-4 * max(float(np.abs(alone).max()), 0.05)
        np.testing.assert_allclose(value, alone, atol=atol, err_msg=name)


@pytest.mark.slow
def test_generated_intervals(experiment, params):
    chat = open_chat(experiment.data)

    def run(numbers):
        return jax.device_get(
            generate(
                params,
                batched(experiment, numbers).prompt,
                blueprint=parameters.blueprint(experiment.model),
                max_tokens=12,
                evidence_id=chat.evidence_id,
                end_id=chat.end_id,
                pad_id=chat.pad_id,
            )
        )

    together = run(range(8))
    said = together.tokens == chat.evidence_id
    assert said.any(axis=1).sum() >= 4  # else nothing is fed back
    for number in range(8):
        alone = run([number])
        np.testing.assert_array_equal(together.tokens[number], alone.tokens[0])
        np.testing.assert_array_equal(together.grounding.spans[number], alone.grounding.spans[0])
        count = FRAMES[number]
        np.testing.assert_allclose(
            together.grounding.probabilities[number, :, :count],
            alone.grounding.probabilities[0, :, :count],
            atol=2e-5,
        )
