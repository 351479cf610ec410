"""How a token is chosen: likeliest, drawn, from the nucleus, with repetition made less likely."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tgvlm_jax.rollout.sampling import GREEDY, add_used, choose, log_probs, used_tokens
from tgvlm_jax.schema import SamplingConfig
from tgvlm_jax.types import InputError, Prompt

LOGITS = jnp.log(jnp.asarray([[0.5, 0.3, 0.15, 0.05], [0.05, 0.15, 0.3, 0.5]]))


def drawn(sampling, *, count=4000):
    """Shares of the tokens among many draws, by row."""
    keys = jax.random.split(jax.random.key(0), count)
    tokens = jax.vmap(lambda key: choose(LOGITS, None, sampling=sampling, key=key))(keys)
    return np.stack([(np.asarray(tokens) == n).mean(axis=0) for n in range(4)], axis=1)


def test_the_likeliest_at_temperature_zero():
    assert choose(LOGITS, None, sampling=GREEDY, key=None).tolist() == [0, 3]


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_draws_follow_the_probabilities(temperature):
    wanted = jax.nn.softmax(LOGITS / temperature, axis=-1)
    found = drawn(SamplingConfig(temperature=temperature))
    np.testing.assert_allclose(found, wanted, atol=0.03)


@pytest.mark.parametrize(("top_p", "kept"), [(0.5, 1), (0.51, 2), (0.8, 2), (0.9, 3), (1.0, 4)])
def test_the_nucleus_is_the_fewest_that_hold_the_share(top_p, kept):
    found = drawn(SamplingConfig(temperature=1.0, top_p=top_p))
    assert (found[0] > 0).tolist() == [n < kept for n in range(4)]
    wanted = np.where(np.arange(4) < kept, np.exp(LOGITS[0]), 0)
    np.testing.assert_allclose(found[0], wanted / wanted.sum(), atol=0.03)


def test_only_the_likeliest_few_are_drawn():
    found = drawn(SamplingConfig(temperature=1.0, top_k=2))
    assert (found > 0).tolist() == [[True, True, False, False], [False, False, True, True]]
    np.testing.assert_allclose(found[0, :2], [0.625, 0.375], atol=0.03)


def test_log_probabilities_are_those_before_anything_is_left_out():
    found = log_probs(LOGITS, jnp.asarray([1, 0]), temperature=0.5)
    wanted = np.log([0.3**2 / (0.5**2 + 0.3**2 + 0.15**2 + 0.05**2), 0.05**2 / 0.365])
    np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_a_penalty_lowers_what_was_used_whatever_its_sign():
    logits = jnp.asarray([[2.0, 1.9, -1.0], [-1.0, -1.1, -9.0]])
    used = jnp.asarray([[True, False, False], [True, False, False]])
    sampling = SamplingConfig(repetition_penalty=1.2)
    assert choose(logits, used, sampling=sampling, key=None).tolist() == [1, 1]
    assert choose(logits, used & False, sampling=sampling, key=None).tolist() == [0, 0]


def test_text_is_used_but_frames_padding_and_evidence_are_not():
    prompt = Prompt(
        visual=None,
        tokens=jnp.asarray([[5, 0, 2, 7, 1]]),
        visual_index=jnp.asarray([[-1, 0, -1, -1, -1]]),
        length=jnp.asarray([4]),
    )
    used = used_tokens(prompt, 7, size=8)
    assert np.flatnonzero(used[0]).tolist() == [2, 5]
    used = add_used(used, jnp.asarray([[7]]), 7)
    used = add_used(used, jnp.asarray([[3]]), 7)
    assert np.flatnonzero(used[0]).tolist() == [2, 3, 5]


def test_what_cannot_be():
    with pytest.raises(InputError, match="needs a random key"):
        choose(LOGITS, None, sampling=SamplingConfig(temperature=1.0), key=None)
    with pytest.raises(InputError, match="top_p=0"):
        SamplingConfig(top_p=0.0)
