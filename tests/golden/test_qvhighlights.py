"""QVHighlights: moment retrieval and highlight metrics."""

import json

import pytest

from tgvlm_jax.evaluation import qvhighlights

# Percentages are printed with two decimals; one on the edge may fall to the other side.
STEP = 0.0100001


@pytest.fixture
def truth(suite):
    return qvhighlights.read_truth(suite / "gt.jsonl").records


@pytest.fixture
def submission(suite):
    return qvhighlights.read_submission(suite / "submission.jsonl").records


def assert_moments(found, expected):
    ap = {str(t): value for t, value in found.ap.items()} | {"average": found.mean_ap}
    assert ap == pytest.approx(expected["MR-mAP"], abs=STEP)
    recall = {str(t): value for t, value in found.recall.items()}
    assert recall == pytest.approx(expected["MR-R1"], abs=STEP)


def assert_highlights(found, expected):
    ours = {"HL-mAP": found.mean_ap, "HL-Hit1": found.hit}
    assert ours == pytest.approx(expected, abs=STEP)


def assert_result(found, expected):
    assert found.brief() == pytest.approx(expected["brief"], abs=STEP)
    for name, scores in found.moments.items():
        assert_moments(scores, expected[name])
    for name, scores in found.highlights.items():
        assert_highlights(scores, expected[f"HL-min-{name}"])


def test_all_queries(suite, truth, submission):
    expected = json.loads((suite / "expected.json").read_text())
    assert_result(qvhighlights.score_qvhighlights(truth, submission), expected["metrics"])


def test_every_query_alone(suite, truth, submission):
    expected = json.loads((suite / "expected.json").read_text())["per_query"]
    given = {answer.query_id: answer for answer in submission}
    for query in truth:
        answer, record = given[query.query_id], expected[str(query.query_id)]
        found = qvhighlights.score_qvhighlights([query], [answer])
        assert_moments(found.moments["full"], record)
        iou = qvhighlights.top_iou(query, answer)
        assert iou == pytest.approx(record["top1_best_iou"], abs=1e-9)
        for name, scores in found.highlights.items():
            assert_highlights(scores, record["HL"][f"HL-min-{name}"])


def test_shared_queries(suite, truth, submission):
    expected = json.loads((suite / "expected_subset.json").read_text())
    rows = [slice(*map(int, expected[f"{part}_rows"].split(":"))) for part in ("submission", "gt")]
    found = qvhighlights.score_qvhighlights(
        truth[rows[1]], submission[rows[0]], shared_only=not expected["match_number"]
    )
    assert_result(found, expected["metrics"])
