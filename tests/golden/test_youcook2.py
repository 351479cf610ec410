"""YouCook2 dense captioning: conversion of answers and the captioning metrics."""

import json

import pytest

from tgvlm_jax.evaluation import youcook2
from tgvlm_jax.evaluation.captioning import CaptionMetrics, missing
from tgvlm_jax.evaluation.etbench_answers import ScriptAborts

pytestmark = pytest.mark.timeout(900)  # METEOR reads its tables first
EXACT = 1e-9
NAMES = {"SODA_c_2": "SODA_c"}  # the split's number is part of the script's name


@pytest.fixture(scope="module")
def metrics():
    if reason := missing():
        pytest.skip(reason)
    with CaptionMetrics() as opened:
        yield opened


@pytest.fixture
def expected(suite):
    return json.loads((suite / "expected.json").read_text())


def test_conversion(suite, expected):
    aborted = {case["idx"]: case["raises"] for case in expected["converter_raises"]}
    converted = {}
    for record in json.loads((suite / "predictions.json").read_text()):
        if record["idx"] in aborted:
            with pytest.raises(ScriptAborts) as stopped:
                youcook2.d2vlm_captions(record["a"])
            assert aborted[record["idx"]] == f"ValueError: {stopped.value}"
            continue
        found = youcook2.d2vlm_captions(record["a"])
        converted[record["video"].split("/")[-1]] = [
            {"timestamp": list(one.span), "caption": one.text} for one in found
        ]
    assert converted == expected["converted"]


@pytest.mark.parametrize("part", ["full", "partial"])
def test_metrics(suite, expected, metrics, part):
    truth = youcook2.read_youcook2(suite / "val.caption_coco_format.json").records
    missing = expected["missing_in_partial"] if part == "partial" else []
    submission = {
        video: [youcook2.Caption(span=tuple(e["timestamp"]), text=e["caption"]) for e in events]
        for video, events in expected["submission_full"].items()
        if video not in missing
    }
    result = youcook2.score_youcook2(truth, submission, metrics=metrics)
    recorded = expected[f"expected_{part}"]
    videos = recorded["per_video"].pop("key")
    for name, values in recorded["per_video"].items():
        if name == "SODA_c_1":
            continue  # -1 throughout: the other split
        ours = [result.videos[video][NAMES.get(name, name)] for video in videos]
        assert ours == pytest.approx(values, abs=EXACT), name
        mean = recorded["mean"][name]
        assert result.mean[NAMES.get(name, name)] == pytest.approx(mean, abs=EXACT)
    assert result.paragraph == pytest.approx(recorded["paragraph"], abs=EXACT)
