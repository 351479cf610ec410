"""A prompt read once and an answer that extends it, against one pass over everything."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.models.tiny import CONFIG, RAGGED, batch, random_params, read, sample
from tgvlm_jax.models import parameters

BLUEPRINT = parameters.blueprint(CONFIG)


@pytest.fixture(scope="module")
def params():
    return random_params()


def one_pass(model, row, encoded, spans):
    """The sequence of one sample without any padding, run by the decoder in one call.

    Frame states do not depend on the answer, so a call without feedback gives the bank.
    """
    is_frame = encoded.visual_index >= 0
    frames = np.flatnonzero(is_frame)
    p, t = len(encoded.prompt), len(encoded.response)
    ids = jnp.asarray(np.concatenate([encoded.prompt, encoded.response]))[None]
    seen = model.tower(jnp.asarray(row.frames)[None])[0]
    x = model.decoder.embed(ids).at[0, frames].set(seen)
    block = np.concatenate([is_frame, np.zeros(t, bool)])
    mask = np.tril(np.ones((p + t, p + t), bool)) | (block & block[:, None])
    bank_layer = model.config.evidence.bank_layer
    query_layer = model.config.decoder.layers - 1
    order = {
        "turn": model.decoder.rotation(jnp.arange(p + t)[None]),
        "mask": jnp.asarray(mask)[None],
        "taps": (bank_layer, query_layer),
    }

    bank = model.decoder(x, **order).taps[bank_layer][0, frames]
    for at, (first, last) in zip(encoded.evidence, spans, strict=True):
        x = x.at[0, p + at].add(jnp.mean(bank[first : last + 1], axis=0))
    states = model.decoder(x, **order)

    queries = model.evidence.evidence_head(states.taps[query_layer][:, p - 1 + encoded.evidence])
    keys = model.evidence.frame_head(states.taps[query_layer][:, frames])
    return states.final[0, p - 1 : -1], model.evidence.scores(queries, keys)[0], queries[0]


@pytest.mark.parametrize("number", range(len(RAGGED)))
def test_prefill_and_extend_equal_one_pass(number, params):
    """Ragged samples padded into one batch, each against its own plain sequence."""
    row, encoded = RAGGED[number]
    made = batch()
    spans = np.asarray(made.response.spans[number], int)[
        np.asarray(made.response.evidence_mask[number])
    ]
    slots = np.flatnonzero(made.response.evidence_mask[number])

    final, scores, queries = jax.jit(
        lambda p: one_pass(BLUEPRINT.build(p), row, encoded, spans.tolist())
    )(params)
    _, predicted = read(params, made)

    np.testing.assert_allclose(predicted.final[number, : len(final)], final, atol=2e-5)
    np.testing.assert_allclose(predicted.queries[number, slots], queries, atol=2e-5)
    found = predicted.scores[number, slots, : len(row.frames)]
    np.testing.assert_allclose(found, scores, atol=2e-5)


def moved(before, after):
    return np.abs(np.asarray(before) - np.asarray(after)).max(axis=-1)


def test_frames_see_each_other_both_ways(params):
    before, _ = read(params, batch())
    made = batch()
    frames = np.array(made.prompt.visual.pixels)
    frames[0, 5] = 255 - frames[0, 5]  # the last frame of the first sample
    prompt = dataclasses.replace(
        made.prompt, visual=dataclasses.replace(made.prompt.visual, pixels=jnp.asarray(frames))
    )
    after, _ = read(params, dataclasses.replace(made, prompt=prompt))
    assert np.all(moved(before.bank.states, after.bank.states)[0] > 1e-5)
    assert np.all(moved(before.bank.keys, after.bank.keys)[0] > 1e-5)
    np.testing.assert_array_equal(moved(before.bank.states, after.bank.states)[1:], 0)


def test_the_question_does_not_reach_back_into_the_frames(params):
    before, _ = read(params, batch())
    made = batch()
    tokens = np.array(made.prompt.tokens)
    tokens[0, -1] = (tokens[0, -1] + 1) % 32
    prompt = dataclasses.replace(made.prompt, tokens=jnp.asarray(tokens))
    after, _ = read(params, dataclasses.replace(made, prompt=prompt))
    np.testing.assert_array_equal(moved(before.bank.states, after.bank.states), 0)
    np.testing.assert_array_equal(moved(before.bank.keys, after.bank.keys), 0)
    assert moved(before.final, after.final)[0] > 1e-4


def test_a_span_is_fed_back_at_its_evidence_token_and_not_before(params):
    _, before = read(params, batch())
    made = batch()
    spans = np.array(made.response.spans)
    spans[1, 0] = [0, 0]
    response = dataclasses.replace(made.response, spans=jnp.asarray(spans))
    _, after = read(params, dataclasses.replace(made, response=response))
    at = int(RAGGED[1][1].evidence[0])
    change = moved(before.final, after.final)[1]
    np.testing.assert_array_equal(change[: at + 1], 0)
    assert np.all(change[at + 1 : len(RAGGED[1][1].response)] > 1e-5)


def test_padding_of_every_kind_changes_nothing(params):
    samples = (RAGGED[1], sample(7, frames=3)) * 2
    tight = batch(samples, frames=4, prompt=9, response=9, events=1)
    loose = batch(samples)
    (prompt, answer), (wide_prompt, wide_answer) = read(params, tight), read(params, loose)
    np.testing.assert_allclose(wide_prompt.final, prompt.final, atol=1e-5)
    np.testing.assert_allclose(wide_prompt.bank.states[:, :4], prompt.bank.states, atol=1e-5)
    np.testing.assert_array_equal(wide_prompt.bank.states[:, 4:], 0)
    for i in range(2):
        size = len(samples[i][1].response)
        np.testing.assert_allclose(wide_answer.final[i, :size], answer.final[i, :size], atol=1e-5)
        frames = len(samples[i][0].frames)
        found = wide_answer.scores[i, [0, 2], :frames]  # the two mentions of span 0
        np.testing.assert_allclose(found, answer.scores[i, :, :frames], atol=1e-5)
