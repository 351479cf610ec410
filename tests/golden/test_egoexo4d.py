"""Ego-Exo4D proficiency: accuracy by view."""

import json

import pytest

from tgvlm_jax.evaluation import egoexo4d


def test_accuracy_of_every_view(suite):
    truth = egoexo4d.read_truth(suite / "gt.json")
    found = egoexo4d.score_views(truth, egoexo4d.read_logits(suite / "pred.json"))
    expected = json.loads((suite / "expected.json").read_text())
    assert set(found) == set(expected)
    for view, scores in expected.items():
        assert found[view].overall == pytest.approx(scores["accuracy"], abs=1e-12)
        assert found[view].by_scenario == pytest.approx(scores["by_scenario"], abs=1e-12)
