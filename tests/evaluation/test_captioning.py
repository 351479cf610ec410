import numpy as np
import pytest

from tgvlm_jax.evaluation import captioning
from tgvlm_jax.types import InputError

needs_java = pytest.mark.skipif(
    captioning.missing() is not None, reason=f"captions: {captioning.missing()}"
)


def test_what_is_missing_is_said(monkeypatch):
    monkeypatch.setenv("PATH", "")
    reason = captioning.missing()
    assert reason is not None
    assert "install" in reason
    with pytest.raises(InputError, match="caption metrics: needs"):
        captioning.CaptionMetrics()


@needs_java
def test_words_keep_their_lines_apart():
    texts = ["Cut the onion,\nthen\u2028stir.", " ", "I can't; (they're) \"chef's\"...", "Mix!", ""]
    with captioning.CaptionMetrics() as metrics:
        metrics.learn(texts)
        found = [metrics.tokenised(text) for text in texts]
    assert found == [
        "cut the onion then stir", "", "i ca n't -lrb- they 're -rrb- chef 's", "mix", "",
    ]  # fmt: skip


@needs_java
def test_metrics_of_known_texts():
    with captioning.CaptionMetrics() as metrics:
        same = ["a man cuts an onion", "the dog runs over a hill"]
        np.testing.assert_allclose(metrics.cider(same, same).texts, 10)
        np.testing.assert_allclose(metrics.bleu(same, same), 1, rtol=1e-8)
        assert metrics.cider(["a b c"], ["a b c"]).together == 0  # one pair has no rare words
        brevity = np.exp(1 - 3 / 2)
        assert metrics.bleu(["the cat"], ["the cat sat"])[0] == pytest.approx(brevity, rel=1e-6)
        rouge = metrics.rouge_l(["a b", "x"], ["a c b d", "y"]).texts
        np.testing.assert_allclose(rouge, [2.44 * 0.5 / (0.5 + 1.44), 0])
        with pytest.raises(InputError, match="as many"):
            metrics.cider(["a"], [])


@needs_java
@pytest.mark.slow  # METEOR reads its tables for ten seconds
def test_meteor():
    tests, references = ["the cat sat", "a dog", "cars"], ["the cat sat", "the cat", "automobiles"]
    with captioning.CaptionMetrics() as metrics:
        found = metrics.meteor(tests, references)
        assert metrics.meteor(tests, references) is found
    assert found.texts[0] == 1
    assert found.texts[1] < 0.2
    assert found.texts[2] > 0.3  # a synonym
    assert found.together != pytest.approx(found.texts.mean(), abs=1e-6)
