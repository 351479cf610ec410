import dataclasses
import json

import pytest

from tgvlm_jax.evaluation import captioning, etbench, etbench_answers
from tgvlm_jax.evaluation.etbench_captioning import CaptionScorers
from tgvlm_jax.evaluation.etbench_data import read_etbench
from tgvlm_jax.evaluation.similarity import TokenOverlap
from tgvlm_jax.types import InputError

SCORERS = CaptionScorers(similarity=TokenOverlap(), metrics=None)
RECORD = {
    "task": "tvg", "source": "charades_sta", "idx": 0, "video": "a/b.mp4", "duration": 30.0,
    "tgt": [2.0, 8.0], "q": "when?", "a": "from 2 to 8",
}  # fmt: skip
CHOICE = RECORD | {"task": "rar", "p": 1, "o": ["run", "jump", "sit", "fly"], "a": "(B) jump"}
CAPTIONS = RECORD | {
    "task": "dvc", "tgt": [[0, 10], [10, 20]], "g": ["cut the onion", "fry it"],
    "a": "0 - 10, cut the onion.\n10 - 20, boil the rice.",
}  # fmt: skip


def read(tmp_path, *records):
    path = tmp_path / "predictions.json"
    path.write_text(json.dumps(records))
    return read_etbench(path)


def score(tmp_path, variant, *records):
    return etbench.score_etbench(read(tmp_path, *records).records, variant, scorers=SCORERS)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"task": "abc"}, "'task' must be one of"),
        ({"task": None}, "'task' must be a string, found null"),
        ({"source": " "}, "'source' is blank"),
        ({"idx": "0"}, "'idx' must be a whole number"),
        ({"idx": True}, "'idx' must be a whole number, found true or false"),
        ({"video": 3}, "'video' must be a string"),
        ({"duration": "30"}, "'duration' must be a number"),
        ({"duration": float("nan")}, "'duration' must be finite"),
        ({"tgt": None}, "'tgt' must hold pairs"),
        ({"tgt": [2.0]}, "'tgt' must hold pairs"),
        ({"tgt": [8.0, 2.0]}, "0 <= start <= end"),
        ({"tgt": [-1.0, 2.0]}, "0 <= start <= end"),
        ({"tgt": ["2", 8.0]}, "'tgt' must be a number, found a string"),
        ({"task": "tal", "tgt": []}, "'tgt' is empty"),
        ({"task": "vhd", "tgt": [[[1, 2, 3]]]}, "'tgt' must hold pairs"),
        ({"task": "rar", "o": ["x"], "p": 0}, "'o' must have 4 or 5 options, found 1"),
        ({"task": "rar", "o": list("abcd"), "p": 4}, "'p' must be in 0..3"),
        ({"task": "eca", "o": [[1, 2]] * 3 + [[2]], "p": 0}, "'o' must hold pairs"),
        ({"task": "dvc", "tgt": [[0, 1]], "g": []}, "'g' has 0 captions for 1 spans"),
        ({"task": "slc", "tgt": [[0, 1]], "g": [1]}, "'g' must hold strings only"),
        ({"q": 1}, "'q' must be a string"),
        ({"a": None}, "'a' must be a string, found null"),
    ],
)
def test_a_bad_record_is_named_and_the_others_are_read(tmp_path, change, reason):
    loaded = read(tmp_path, RECORD, RECORD | change, RECORD)
    assert len(loaded.records) == 2
    (problem,) = loaded.problems
    assert str(problem).startswith(f"{tmp_path / 'predictions.json'}: record 1: ")
    assert reason in str(problem)


def test_a_file_that_is_no_list(tmp_path):
    path = tmp_path / "x.json"
    path.write_text("{}")
    with pytest.raises(InputError, match="must hold a list of records, found an object"):
        read_etbench(path)
    path.write_text("[")
    with pytest.raises(InputError, match="is no JSON"):
        read_etbench(path)
    with pytest.raises(InputError, match="cannot be read"):
        read_etbench(tmp_path / "y.json")


def test_annotations_need_no_answer(tmp_path):
    path = tmp_path / "x.json"
    path.write_text(json.dumps([{k: v for k, v in RECORD.items() if k != "a"}]))
    (sample,) = read_etbench(path, answered=False).records
    assert sample.answer is None
    assert read_etbench(path).problems


def test_spans_of_an_answer():
    assert etbench_answers.spans("It is 8.5 -2") == [(2.0, 8.5)]
    assert etbench_answers.spans("from 3 to 9") == [(3.0, 9.0)]
    assert etbench_answers.spans("Starts at 7! Ends at 3!") == [(3.0, 7.0)]
    assert etbench_answers.spans("no idea") is None
    with pytest.raises(etbench_answers.ScriptAborts, match=r"12\.\.5"):
        etbench_answers.spans("12..5 - 20")


def test_answer_in_two_parts():
    found = etbench_answers.grounded("9 - 2 </evi> it is 3 - 5")
    assert found.answer == [(3.0, 5.0)]
    assert found.evidence == [(9.0, 2.0)]
    assert etbench_answers.grounded("3 - 5").answer is None


def test_first_span_or_best(tmp_path):
    record = RECORD | {"a": "0 - 1</evi>20 - 25, 2 - 8"}
    assert score(tmp_path, "original", record).collected["tvg"]["charades_sta"]["F1"] == 0
    metrics = score(tmp_path, "new", record).collected["tvg"]["charades_sta"]
    assert metrics["F1"] == 1
    assert metrics["F1_evi"] == 0


def test_a_wrong_letter_may_still_win_by_its_text(tmp_path):
    record = CHOICE | {"o": ["run", "jump a rope", "sit", "fly"], "a": "(A) jump the rope"}
    assert score(tmp_path, "original", record).collected["rar"]["charades_sta"]["Acc"] == 1
    assert score(tmp_path, "strict_rvq", record).collected["rar"]["charades_sta"]["Acc"] == 0


def test_an_answer_that_stops_the_script_is_a_failure_and_named(tmp_path):
    result = score(tmp_path, "original", RECORD, RECORD | {"idx": 1, "a": "12..5 - 20"})
    assert result.collected["tvg"]["charades_sta"]["Failed"] == 1
    assert result.aborted == ("tvg charades_sta 1: could not convert string to float: '12..5'",)


def test_captions(tmp_path):
    metrics = score(tmp_path, "original", CAPTIONS).collected["dvc"]["charades_sta"]
    assert metrics["F1"] == 1
    assert "ROUGE_L" not in metrics


@pytest.mark.slow  # METEOR reads its tables for ten seconds
@pytest.mark.skipif(captioning.missing() is not None, reason=str(captioning.missing()))
def test_caption_metrics(tmp_path):
    with captioning.CaptionMetrics() as metrics:
        scorers = dataclasses.replace(SCORERS, metrics=metrics)
        result = etbench.score_etbench(
            read(tmp_path, CAPTIONS).records, "original", scorers=scorers
        )
    found = result.collected["dvc"]["charades_sta"]
    assert found["SentSim"] == found["ROUGE_L"] == 0.5
    assert 0.5 < found["METEOR"] < 0.7
    assert result.overall == {"DVC (F1)": 100.0, "DVC (Sim)": 50.0}
    assert "pycocoevalcap" in result.text()


def test_the_report_says_what_made_the_figures(tmp_path):
    result = score(tmp_path, "original", RECORD, CHOICE, CAPTIONS)
    assert "token overlap (no MiniLM" in result.text()
    assert "captions: not scored" in result.text()
    assert set(result.overall) == {"RAR (Acc)", "TVG (F1)", "DVC (F1)"}
    assert result.merged == {}  # other tasks are missing
    assert json.loads(json.dumps(result.to_json()))["collected"]["rar"]["charades_sta"]["Acc"] == 1


def test_nothing_to_score():
    with pytest.raises(InputError, match="no samples"):
        etbench.score_etbench([], "new", scorers=SCORERS)
