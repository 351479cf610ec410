"""Charades-STA: conversion of answers and the metrics of three systems."""

import dataclasses
import json

import pytest

from tgvlm_jax.evaluation import charades

EXACT = 1e-9


@pytest.fixture
def expected(suite):
    return json.loads((suite / "expected.json").read_text())


@pytest.fixture
def queries(suite):
    return charades.read_charades(suite / "test.caption_coco_format.json").records


@pytest.fixture
def answers(suite):
    return charades.read_charades_answers(suite / "predictions.json").records


def assert_scores(found, metrics):
    for threshold, value in found.recall.items():
        assert value == pytest.approx(metrics[f"IOU {threshold}"], abs=EXACT)
    if found.mean_iou is not None:
        assert found.mean_iou == pytest.approx(metrics["mIOU"], abs=EXACT)
        assert found.count == metrics["num"]


def test_both_annotation_files_hold_the_same(suite, queries):
    lines = charades.read_charades(suite / "charades_sta_test.txt")
    assert lines.problems == []
    assert lines.records == queries


@pytest.mark.parametrize("key", ["d2vlm", "d2vlm_with_index_key"])
def test_d2vlm(key, expected, queries, answers):
    with_index = key == "d2vlm_with_index_key"
    answers = [dataclasses.replace(one, indexed=with_index) for one in answers]
    submission = charades.d2vlm_submission(answers)
    raised = {case["idx"]: case["raises"] for case in expected[key]["converter_raises"]}
    assert submission.aborted == raised
    converted = expected[key]["converted"]
    assert {str(index) for index in submission.spans} == set(converted)
    for index, span in submission.spans.items():
        entry = converted[str(index)]
        assert (span is None) == (entry == [])
        if span is not None:
            assert list(span) == entry["timestamp"]
            assert submission.queries[index] == entry["query"]
            assert f"{queries[index].video}.mp4" == entry["vid"]
    metrics = expected[key].get("metrics") or expected[key]["metrics_partial_predictions"]
    assert_scores(charades.score_d2vlm(queries, submission), metrics)


def test_timechat(expected, queries):
    submission = expected["timechat"]["submission"]
    lists = [submission[str(index)]["timestamp"] for index in range(len(queries))]
    spans = [[tuple(span) for span in spans] for spans in lists]
    assert_scores(charades.score_timechat(queries, spans), expected["timechat"]["metrics"])


def test_etchat(expected):
    recorded = expected["etchat"]
    truths = [tuple(map(float, sample["span"])) for sample in recorded["samples"]]
    predictions = [sample["pred"] for sample in recorded["samples"]]
    for truth, prediction, iou in zip(truths, predictions, recorded["iou"], strict=True):
        assert charades.etchat_iou(prediction, truth) == pytest.approx(iou, abs=1e-6)
    scores = charades.score_etchat(truths, predictions)
    recall = " ".join(f"R@{t}: {round(v / 100, 3)}" for t, v in scores.recall.items())
    assert recorded["log"][0] == recall
    assert recorded["log"][1] == f"mIoU: {round(scores.mean_iou, 3)}"
    share = round(100 * scores.failed / scores.count, 1)
    assert recorded["log"][2] == f"Failed: {scores.failed} samples ({share}%)"


def test_videossr(expected):
    recorded = expected["videossr_vtg"]
    samples = recorded["samples"]
    for sample in samples:
        span = charades.videossr_span(sample["model_output"])
        assert (None if span is None else list(span)) == sample["parsed"]
        iou = charades.videossr_iou(sample["model_output"], sample["answer"])
        assert iou == pytest.approx(sample["iou"], abs=EXACT)
    scores = charades.score_videossr(
        [sample["model_output"] for sample in samples], [sample["answer"] for sample in samples]
    )
    assert scores.mean_iou == pytest.approx(recorded["mean_iou_exact"], abs=EXACT)
    lines = [
        f"Items with Unparsable Answers: {scores.failed}",
        f"Successfully Processed & Parsed: {scores.count}",
        f"Mean IoU (mIoU): {scores.mean_iou:.4f}",
        *(f"Accuracy @ IoU={t}: {value:.2f}%" for t, value in scores.recall.items()),
    ]
    assert recorded["report"] == lines
