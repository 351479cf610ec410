import jax
import jax.numpy as jnp
import numpy as np

from tests.models.tiny import CONFIG, random_params
from tgvlm_jax.models import parameters
from tgvlm_jax.models.evidence import span_means

BANK = jnp.asarray(np.random.default_rng(0).standard_normal((2, 6, 4), np.float32))
MASK = jnp.asarray([[True] * 6, [True] * 4 + [False] * 2])


def test_span_means_clamp_to_the_frames_there_are():
    spans = jnp.asarray([[[1, 3], [5, 5], [-2, 0]], [[2, 9], [7, 8], [0, 3]]], jnp.int32)
    slices = [[(1, 4), (5, 6), (0, 1)], [(2, 4), (3, 4), (0, 4)]]
    found = jax.jit(span_means)(BANK, spans, MASK)
    for row, slot in np.ndindex(2, 3):
        first, stop = slices[row][slot]
        wanted = np.mean(BANK[row, first:stop], axis=0)
        np.testing.assert_allclose(found[row, slot], wanted, atol=1e-6, err_msg=f"{row} {slot}")


def test_a_span_is_rounded_put_in_order_and_clamped():
    """As the released code feeds events back; halves go to even."""
    spans = jnp.asarray([[[4, 2], [2.5, 3.5], [-3, 0.4], [1.6, 90]]] * 2, jnp.float32)
    plain = jnp.asarray([[[2, 4], [2, 4], [0, 0], [2, 90]]] * 2, jnp.float32)
    found = span_means(BANK, spans, MASK)
    np.testing.assert_array_equal(found, span_means(BANK, plain, MASK))
    np.testing.assert_allclose(found[0, 2], BANK[0, 0], rtol=1e-6)


def test_scores_are_scaled_products_and_read_gives_the_peak():
    evidence = parameters.blueprint(CONFIG).build(random_params()).evidence
    rng = np.random.default_rng(1)
    queries, keys = (
        jnp.asarray(rng.standard_normal((2, n, CONFIG.decoder.width), np.float32)) for n in (3, 6)
    )
    scores = evidence.scores(queries, keys)
    wanted = np.einsum("bed,bfd->bef", queries, keys) / np.sqrt(CONFIG.decoder.width)
    np.testing.assert_allclose(scores, wanted, atol=1e-5)

    peaked = jnp.full((2, 1, 6), -9.0).at[:, 0, 2:4].set(9.0).at[:, 0, 5].set(20.0)
    spans = jax.jit(evidence.read)(peaked, MASK)
    # Frame 5 is padding in the second row.
    np.testing.assert_array_equal(spans[:, 0], [[5, 5], [2, 3]])


def test_the_two_heads_have_parameters_of_their_own():
    evidence = parameters.blueprint(CONFIG).build(random_params()).evidence
    x = jnp.ones((1, 1, CONFIG.decoder.width))
    assert np.abs(evidence.frame_head(x) - evidence.evidence_head(x)).max() > 0.01
