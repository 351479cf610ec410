"""Answers out of slots that are refilled, against those of one batch."""

import jax
import numpy as np
import pytest

from tests.models.tiny import CONFIG, RAGGED, batch, random_params
from tgvlm_jax.models import parameters
from tgvlm_jax.rollout import refill as refilling
from tgvlm_jax.rollout.refill import refill
from tgvlm_jax.rollout.sampler import generate
from tgvlm_jax.schema import SamplingConfig
from tgvlm_jax.types import InputError

LENGTH, PAD, NEVER = 40, 77, -1
SETTINGS = {"blueprint": parameters.blueprint(CONFIG), "max_tokens": LENGTH, "pad_id": PAD}
PROMPTS = [batch([one]).prompt for one in RAGGED * 2]


@pytest.fixture(scope="module")
def case():
    """Answers that never end, an `<evi>` among their tokens, and an id that ends some of them."""
    params = random_params()
    free = np.asarray(generate(params, batch().prompt, end_id=NEVER, **SETTINGS).tokens)
    counts = {int(token): np.sum(np.any(free == token, axis=1)) for token in np.unique(free)}
    end = next(token for token, count in counts.items() if 0 < count < len(free))
    return params, int(free[0, 0]), end


def test_every_prompt_gets_the_answer_it_gets_in_a_batch(case):
    """Ragged prompts in three slots; two answers each, likeliest tokens, evidence fed back."""
    params, evidence, end = case
    together = generate(params, batch().prompt, end_id=end, evidence_id=evidence, **SETTINGS)
    compiled = refilling._chunk._cache_size()
    done = list(
        refill(
            params,
            PROMPTS,
            end_id=end,
            evidence_id=evidence,
            sampling=SamplingConfig(),
            key=jax.random.key(0),
            slots=3,
            samples=2,
            **SETTINGS,
        )
    )
    assert refilling._chunk._cache_size() == compiled + 1
    assert sorted(one.number for one in done) == list(range(len(PROMPTS)))
    assert [one.number for one in done] != list(range(len(PROMPTS)))  # short ones overtake
    for one in done:
        row = one.number % len(RAGGED)
        for answer in range(2):
            np.testing.assert_array_equal(one.found.tokens[answer], together.tokens[row])
            np.testing.assert_array_equal(one.found.mask[answer], together.mask[row])
            mine = np.asarray(together.tokens[row]) == evidence
            np.testing.assert_array_equal(
                one.found.grounding.spans[answer][mine], together.grounding.spans[row][mine]
            )


def test_a_stop_string_ends_an_answer_with_the_token_that_completes_it(case):
    params = case[0]

    def text(ids):
        return "".join(chr(97 + one) for one in ids)

    free = np.asarray(generate(params, PROMPTS[1], end_id=NEVER, **SETTINGS).tokens)[0].tolist()
    stop = text(free)[18:20]
    (one,) = refill(
        params,
        PROMPTS[1:2],
        end_id=NEVER,
        sampling=SamplingConfig(),
        key=jax.random.key(0),
        slots=1,
        stop=(stop,),
        text=text,
        **SETTINGS,
    )
    length = text(free).index(stop) + len(stop)
    assert one.found.tokens[0, :length].tolist() == free[:length]
    assert one.found.mask[0].tolist() == [n < length for n in range(LENGTH)]
    assert set(one.found.tokens[0, length:].tolist()) == {PAD}


def test_settings_that_are_not_there():
    common = {"end_id": 0, "key": jax.random.key(0), "slots": 1, **SETTINGS}
    with pytest.raises(InputError, match="repetition_penalty"):
        next(refill({}, PROMPTS, sampling=SamplingConfig(repetition_penalty=1.2), **common))
    with pytest.raises(InputError, match="need `text`"):
        next(refill({}, PROMPTS, sampling=SamplingConfig(), stop=("x",), **common))
