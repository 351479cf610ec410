"""Greedy decoding against the teacher-forced pass over what it emitted."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.models.tiny import CONFIG, RAGGED, batch, random_params
from tgvlm_jax.models import parameters
from tgvlm_jax.rollout.sampler import generate
from tgvlm_jax.schema import SamplingConfig
from tgvlm_jax.types import Response

BLUEPRINT = parameters.blueprint(CONFIG)
LENGTH, NEVER, PAD = 8, -1, 77  # no token of the model is 77


def run(params, prompt, *, evidence, end):
    return generate(
        params,
        prompt,
        blueprint=BLUEPRINT,
        max_tokens=LENGTH,
        evidence_id=evidence,
        end_id=end,
        pad_id=PAD,
    )


@dataclasses.dataclass(frozen=True)
class Case:
    params: dict
    evidence: int
    end: int
    free: np.ndarray


@pytest.fixture(scope="module")
def case():
    """Ids for `<evi>` and the end among what this model emits anyway.

    `<evi>` is the first token of the first row; the end comes in the middle of some row.
    """
    params, prompt = random_params(), batch().prompt
    evidence = int(run(params, prompt, evidence=NEVER, end=NEVER).tokens[0, 0])
    free = np.asarray(run(params, prompt, evidence=evidence, end=NEVER).tokens)
    late = set(free[:, 2:6].flat) - set(free[:, :2].flat) - {evidence}
    return Case(params=params, evidence=evidence, end=int(min(late)), free=free)


@jax.jit
def forced(params, prompt, tokens, spans, evidence):
    """Logits and evidence probabilities of a pass over given tokens, with given feedback."""
    model = BLUEPRINT.build(params)
    at = jnp.where(tokens == evidence, jnp.arange(LENGTH), -1)
    response = Response(
        tokens=tokens,
        mask=jnp.ones(tokens.shape, bool),
        evidence=at,
        spans=spans,
        evidence_mask=at >= 0,
    )
    predicted = model.extend(model.prefill(prompt), response)
    return model.decoder.logits(predicted.final), jax.nn.sigmoid(predicted.scores)


def test_greedy_tokens_and_evidence_are_those_of_the_teacher_forced_pass(case):
    """Token i must be the argmax after the tokens before it, their spans fed back."""
    prompt = batch().prompt
    out = run(case.params, prompt, evidence=case.evidence, end=NEVER)
    logits, chances = forced(case.params, prompt, out.tokens, out.grounding.spans, case.evidence)
    np.testing.assert_array_equal(out.tokens, np.argmax(logits, axis=-1))

    emitted = np.asarray(out.tokens == case.evidence)
    assert emitted.any(axis=1).sum() >= 1
    real = np.broadcast_to(prompt.visual.mask[:, None], chances.shape) & emitted[..., None]
    np.testing.assert_allclose(out.grounding.probabilities[real], chances[real], atol=1e-5)

    read = jax.jit(BLUEPRINT.build(case.params).evidence.read)
    again = read(jax.scipy.special.logit(chances), prompt.visual.mask)
    spans = np.asarray(out.grounding.spans)
    np.testing.assert_array_equal(spans[emitted], np.asarray(again)[emitted])


def test_the_feedback_reaches_the_next_token(case):
    """Without it the teacher-forced pass gives other logits, so the test above can fail."""
    prompt = batch().prompt
    out = run(case.params, prompt, evidence=case.evidence, end=NEVER)
    fed, _ = forced(case.params, prompt, out.tokens, out.grounding.spans, case.evidence)
    plain, _ = forced(case.params, prompt, out.tokens, out.grounding.spans, NEVER)
    assert out.tokens[0, 0] == case.evidence
    assert np.abs(fed - plain)[0, 1].max() > 1e-3
    np.testing.assert_array_equal(fed[:, 0], plain[:, 0])


def test_rows_of_a_ragged_batch_are_as_they_are_alone(case):
    together = run(case.params, batch().prompt, evidence=case.evidence, end=case.end)
    for row in range(len(RAGGED)):
        # In other company, at another place, and so behind another row's early end.
        prompt = batch([RAGGED[row]] * len(RAGGED)).prompt
        alone = run(case.params, prompt, evidence=case.evidence, end=case.end)
        np.testing.assert_array_equal(alone.tokens[2], together.tokens[row])
        mine = np.asarray(together.tokens[row]) == case.evidence
        spans = together.grounding.spans[row]
        np.testing.assert_array_equal(alone.grounding.spans[2][mine], spans[mine])


def test_a_padded_prompt_gives_the_answer_of_an_unpadded_one(case):
    padded = run(case.params, batch([RAGGED[1]]).prompt, evidence=case.evidence, end=case.end)
    tight = batch([RAGGED[1]], frames=4, prompt=len(RAGGED[1][1].prompt)).prompt
    exact = run(case.params, tight, evidence=case.evidence, end=case.end)
    np.testing.assert_array_equal(padded.tokens, exact.tokens)
    np.testing.assert_array_equal(padded.grounding.spans, exact.grounding.spans)
    np.testing.assert_allclose(
        padded.grounding.probabilities[..., :4], exact.grounding.probabilities, atol=1e-5
    )


def test_after_the_end_there_is_only_padding(case):
    out = run(case.params, batch().prompt, evidence=case.evidence, end=case.end)
    ended = 0
    for free, tokens in zip(case.free, np.asarray(out.tokens), strict=True):
        stop = list(free).index(case.end) + 1 if case.end in free else LENGTH
        np.testing.assert_array_equal(tokens[:stop], free[:stop])
        np.testing.assert_array_equal(tokens[stop:], PAD)
        ended += stop < LENGTH
    assert ended


def test_the_loop_stops_when_every_row_has_ended(case):
    """Steps that were not run leave no probabilities behind; a sigmoid is never 0."""
    row = next(i for i, free in enumerate(case.free) if case.end in free[:-1])
    prompt = batch([RAGGED[row]] * len(RAGGED)).prompt
    out = run(case.params, prompt, evidence=case.evidence, end=case.end)
    steps = list(case.free[row]).index(case.end) + 1
    assert np.all(out.grounding.probabilities[:, :steps] > 0)
    np.testing.assert_array_equal(out.grounding.probabilities[:, steps:], 0)


# ------------------------------------------------------------------ several answers to a prompt

ANSWERS = 3
WARM = SamplingConfig(temperature=1.3)


def sampled(params, prompt, *, evidence, end=NEVER, sampling=WARM, spans=False, seed=0):
    return generate(
        params,
        prompt,
        blueprint=BLUEPRINT,
        max_tokens=LENGTH,
        evidence_id=evidence,
        end_id=end,
        pad_id=PAD,
        sampling=sampling,
        key=jax.random.key(seed),
        samples=ANSWERS,
        sample_spans=spans,
    )


def repeated(tree):
    return jax.tree.map(lambda x: np.repeat(x, ANSWERS, axis=0), tree)


def test_likeliest_answers_to_a_shared_prompt_are_those_to_prompts_of_their_own(case):
    prompt = batch().prompt
    alone = run(case.params, prompt, evidence=case.evidence, end=case.end)
    together = sampled(
        case.params, prompt, evidence=case.evidence, end=case.end, sampling=SamplingConfig()
    )
    np.testing.assert_array_equal(together.tokens, repeated(alone.tokens))
    np.testing.assert_array_equal(together.mask, repeated(alone.mask))
    assert together.log_probs is None


@pytest.mark.parametrize("spans", [False, True], ids=["read spans", "drawn spans"])
def test_log_probabilities_are_those_of_the_teacher_forced_pass(case, spans):
    """Ragged prompts, three answers each, evidence fed back as it was read or drawn."""
    prompt = batch().prompt
    out = sampled(case.params, prompt, evidence=case.evidence, end=case.end, spans=spans)
    assert len({tuple(row) for row in np.asarray(out.tokens[:ANSWERS])}) > 1
    logits, chances = forced(
        case.params, repeated(prompt), out.tokens, out.grounding.spans, case.evidence
    )
    wanted = jax.nn.log_softmax(logits / WARM.temperature, axis=-1)
    wanted = np.take_along_axis(np.asarray(wanted), np.asarray(out.tokens)[..., None] % 32, 2)
    mask = np.asarray(out.mask)
    assert not mask.all()
    np.testing.assert_allclose(out.log_probs[mask], wanted[mask, 0], atol=1e-5)
    if not spans:
        assert out.grounding.drawn is None
        return
    emitted = mask & (np.asarray(out.tokens) == case.evidence)
    chances, drawn = np.asarray(chances)[emitted], np.asarray(out.grounding.drawn)[emitted]
    assert drawn.any()
    assert not drawn.all()
    np.testing.assert_allclose(
        out.grounding.log_probs[emitted],
        np.log(np.where(drawn, chances, 1 - chances)),
        atol=1e-5,
    )
    frames = np.asarray(repeated(prompt.visual.mask))[np.nonzero(emitted)[0]]
    for (first, last), seen in zip(
        np.asarray(out.grounding.spans)[emitted], drawn & frames, strict=True
    ):
        # The ends of a span were drawn, unless nothing was.
        assert not seen.any() or (seen[first] and seen[last])


def test_the_same_key_gives_the_same_answers_and_another_gives_others(case):
    one, again, other = (
        np.asarray(sampled(case.params, batch().prompt, evidence=case.evidence, seed=seed).tokens)
        for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(one, again)
    assert np.any(one != other)
