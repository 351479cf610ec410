import numpy as np
import pytest

from tgvlm_jax.evaluation.bertscore import bertscore
from tgvlm_jax.evaluation.similarity import MiniLM
from tgvlm_jax.types import InputError


def test_what_is_there_counts_as_precision_and_what_is_missing_as_recall(checkpoint):
    encoder = MiniLM.load(checkpoint)
    tests, references = ["a dog runs", "dog", ""], ["a dog runs", "a dog sleeps a cat", "dog"]
    found = bertscore(tests, references, encoder=encoder)
    assert found.f1[0] == pytest.approx(1, abs=1e-6)
    assert found.precision[1] > found.recall[1]
    assert found.f1[2] == 0
    weighed = bertscore(tests, references, encoder=encoder, idf=True)
    assert weighed.recall[1] != pytest.approx(found.recall[1], abs=1e-6)
    shallow = bertscore(tests, references, encoder=encoder, layers=1)
    assert not np.allclose(shallow.recall, found.recall)
    with pytest.raises(InputError, match="one reference a text"):
        bertscore(["a"], [], encoder=encoder)
