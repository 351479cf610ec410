import jax.numpy as jnp
import numpy as np

from tgvlm_jax.ops.masks import causal_mask, earlier_mask, full_width, packed_mask

ORDER = np.asarray([[0, 1, 2, 3, 0, 1, 2, 0]])
SEGMENTS = np.asarray([[0, 0, 0, 0, 1, 1, 1, 0]])
VALID = np.asarray([[True] * 7 + [False]])
BLOCK = np.asarray([[False, True, False, True, True, True, False, False]])


def pairs(window):
    """The rules spelled out, one pair at a time."""
    seen = np.zeros((1, 8, 8), bool)
    for q, s in np.ndindex(8, 8):
        ahead = ORDER[0, q] - ORDER[0, s]
        near = 0 <= ahead < (window or 99)
        both = BLOCK[0, q] and BLOCK[0, s]
        seen[0, q, s] = (near or both) and SEGMENTS[0, q] == SEGMENTS[0, s] and VALID[0, s]
    return seen


def test_numbers_say_what_the_rules_say():
    """Packed samples, a window, frames that see each other, padding: alone and together."""
    order, valid, block, segments = map(jnp.asarray, (ORDER, VALID, BLOCK, SEGMENTS))
    for window in (0, 2):
        mask = causal_mask(order, valid, block=block, segments=segments, window=window)
        np.testing.assert_array_equal(mask.dense(), pairs(window))


def test_packed_answers_see_their_own_prompts():
    """With a window, too, that ends within the prompt of a sample and not in the one before it."""
    of_keys, places = np.asarray([0, 0, 1, 1, 1, 2, 2]), np.asarray([0, 1, 0, 1, 2, 0, 0])
    filled = np.asarray([True] * 6 + [False])
    own, after = np.asarray([0, 0, 1, 2, 2]), np.asarray([2, 3, 3, 1, 2])
    for window in (0, 3):
        mask = packed_mask(
            *(jnp.asarray(x)[None] for x in (own, after)),
            of_keys=jnp.asarray(of_keys)[None],
            places=jnp.asarray(places)[None],
            filled=jnp.asarray(filled)[None],
            window=window,
        )
        wanted = (own[:, None] == of_keys) & filled
        if window:
            wanted &= after[:, None] - places < window
        np.testing.assert_array_equal(mask.dense()[0], wanted)


def test_slots_may_stand_in_any_order():
    """As those of a long prompt that is dealt out over devices."""
    filled, dealt = jnp.asarray([[True, True, True, False]]), np.asarray([0, 3, 1, 2])
    after = jnp.arange(3, dtype=jnp.int32)
    straight = earlier_mask(filled, after, window=3)
    np.testing.assert_array_equal(
        straight.dense()[0], [[False, True, True, False], [False, False, True, False], [False] * 4]
    )
    other = earlier_mask(filled[:, dealt], after, window=3, slots=jnp.asarray(dealt, jnp.int32))
    np.testing.assert_array_equal(other.dense(), straight.dense()[:, :, dealt])


def test_one_number_may_stand_for_all_queries():
    mask = earlier_mask(jnp.asarray([[True, False]]), jnp.zeros(1, jnp.int32))
    assert mask.dense().shape == (1, 1, 2)
    np.testing.assert_array_equal(full_width(mask, 3).dense(), [[[True, False]] * 3])
