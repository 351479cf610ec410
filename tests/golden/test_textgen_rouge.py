"""ROUGE of recorded texts, with and without stems."""

import json

import pytest

from tgvlm_jax.text import rouge


@pytest.mark.parametrize("stem", [False, True])
def test_rouge(suite, stem):
    recorded = json.loads((suite / "expected.json").read_text())
    wanted = recorded[f"rouge_score_stem_{stem}"]
    texts = zip(recorded["predictions"], recorded["references"], strict=True)
    for number, pair in enumerate(texts):
        found, truth = (rouge.tokens(text, stem=stem) for text in pair)
        scores = {
            "rouge1": rouge.rouge_n(found, truth, n=1),
            "rouge2": rouge.rouge_n(found, truth, n=2),
            "rougeL": rouge.rouge_l(found, truth),
        }
        for name, score in scores.items():
            assert score == pytest.approx(wanted[name][number], abs=1e-12), (name, pair)
