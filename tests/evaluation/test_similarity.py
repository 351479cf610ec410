import numpy as np
import pytest

from tgvlm_jax.evaluation.similarity import MiniLM, TokenOverlap
from tgvlm_jax.types import InputError


def test_embeddings_do_not_depend_on_their_batch(checkpoint):
    texts = ["a dog", "a cat sleeps a cat sleeps", "dog"]
    together = MiniLM.load(checkpoint).embed(texts)
    alone = np.concatenate([MiniLM.load(checkpoint).embed([text]) for text in texts])
    np.testing.assert_allclose(together, alone, atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(together, axis=-1), 1, rtol=1e-6)


def test_pairs(checkpoint):
    model = MiniLM.load(checkpoint)
    same, other = model.pairs(["a dog", "a dog"], ["a dog", "cat sleeps"])
    assert same == pytest.approx(1, abs=1e-6)
    assert other < 0.9999
    assert model.pairs([], []).shape == (0,)
    with pytest.raises(InputError, match="as many texts"):
        model.pairs(["a"], [])


def test_order_of_words_matters(checkpoint):
    model = MiniLM.load(checkpoint)
    assert model.pairs(["dog runs cat"], ["cat runs dog"])[0] < 0.9999


def test_damaged_checkpoint(checkpoint):
    (checkpoint / "model.safetensors").write_bytes(b"x")
    with pytest.raises(InputError, match="no sentence encoder can be read there"):
        MiniLM.load(checkpoint)


def test_token_overlap():
    found = TokenOverlap().pairs(["A dog runs.", "x", ""], ["a dog sleeps", "y", ""])
    np.testing.assert_allclose(found, [2 / 3, 0, 0])
    assert "not comparable" in TokenOverlap().name
