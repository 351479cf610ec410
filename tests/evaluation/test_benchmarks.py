"""Annotation files and figures of the smaller benchmarks, on records made by hand."""

import json

import numpy as np
import pytest

from tgvlm_jax.evaluation import charades, choice_rules, choices, egoexo4d, qvhighlights
from tgvlm_jax.rollout import retrieval
from tgvlm_jax.text.tables import Table
from tgvlm_jax.types import InputError


def write(tmp_path, content, name="file.json"):
    path = tmp_path / name
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def test_charades_lines(tmp_path):
    text = "ABC 1.0 5.5##a man sits.\nABC 5.0 1.0##reversed.\nno span here\n"
    loaded = charades.read_charades(write(tmp_path, text, "x.txt"))
    assert [query.sentence for query in loaded.records] == ["a man sits."]
    assert [str(problem).split(": ", 2)[1] for problem in loaded.problems] == [
        "record 1",
        "record 2",
    ]


def test_charades_protocols_differ_in_what_they_leave_out():
    queries = [charades.CharadesQuery(video="v", sentence="s", span=(0.0, 10.0)) for _ in range(4)]
    scores = charades.score_charades(queries, [(0.0, 10.0), None, None, (0.0, 5.0)])
    assert scores.recall == {0.3: 50, 0.5: 50, 0.7: 25}
    assert scores.mean_iou == 0.375
    read = charades.score_videossr(["0-10", "none", "?", "0 - 5"], ["0-10"] * 4)
    assert read.recall[0.5] == 100
    assert read.count == 2
    with pytest.raises(InputError, match="one answer a query"):
        charades.score_charades(queries, [None])


def test_mvbench(tmp_path):
    row = {"video": "v.mp4", "question": "q?", "candidates": ["x", "y"], "answer": "y"}
    bad = row | {"answer": "z"}
    path = write(tmp_path, [row, bad, row | {"start": 1, "end": 2}], "action_sequence.json")
    loaded = choices.read_mvbench(path)
    assert [question.gold for question in loaded.records] == ["(B) y", "(B) y"]
    assert loaded.records[1].bounds == (1.0, 2.0)
    assert "'answer' must be one of x, y" in str(loaded.problems[0])
    result = choices.score_mvbench(loaded.records, ["B. y", "A"])
    assert result.overall == 50
    assert result.tables[0].rows == (("action_sequence", 50.0, 2),)


def test_videomme_leaves_unread_answers_out(tmp_path):
    row = {
        "question_id": "001-1", "video_id": "001", "duration": "short", "domain": "Knowledge",
        "sub_category": "Law", "task_type": "Counting", "question": "q?",
        "options": ["A.", "B.", "C.", "D."], "answer": "B",
    }  # fmt: skip
    path = write(tmp_path, [row, row, row, row | {"duration": "tiny"}])
    loaded = choices.read_videomme(path)
    assert len(loaded.problems) == 1
    result = choices.score_videomme(loaded.records, ["The best answer is B.", "no", "A"])
    assert (result.overall, result.unread) == (50, 1)
    assert "answers not counted: 1" in result.text()


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("C. Berries are not (B)", "C"),
        ("not A, so D", "D"),
        ("(B) or A: the answer is C, I think", "C"),
        ("The best answer is B. No: the correct answer is A here", "A"),
        ("first (A), then (D) or (B)x", "B"),
        ("A. x or D: y", "A"),
        ("so it is A: x or D) y", "A"),
        ("see X-rays of Bodies", "B"),
        ("because", ""),
        ("E", ""),
    ],
)
def test_lmms_eval_trusts_some_forms_more(text, letter):
    assert choice_rules.lmms_eval_letter(text) == letter


@pytest.mark.parametrize(
    "text",
    [
        "<think>a</think><answer>B</answer>",
        " <think></think>\n<answer> B </answer>\n",
        "<think>a</think><answer>b</answer>",
        "<think>a</think><answer>B</answer> so",
        "<think>a</think><answer>A</answer><think>b</think><answer>B</answer>",
        "<answer>B</answer>",
        "<think>a</think><retrieve>1,2</retrieve>",
        "B",
        "",
    ],
)
def test_a_last_turn_is_read_as_the_retrieval_game_reads_it(text):
    task = retrieval.Task(pool=4, options=("A. x", "B. y"))
    action = retrieval.parse(text, task)
    played = action.content.strip() if action.kind == "answer" and action.formatted else ""
    assert choice_rules.videomtr_answer(text) == played
    assert choice_rules.videomtr_right(text, "B") == (played == "B")


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("(B) x", "B"),
        ("B) x (C)", "B"),
        (" the (D) one", "D"),
        ("because", "b"),
        ("(", ""),
        ("", ""),
    ],
)
def test_lvbench_reads_the_first_parentheses(text, letter):
    assert choice_rules.lvbench_letter(text) == letter


@pytest.mark.parametrize(
    ("text", "letter"),
    [("Best answer: C", "C"), ("The best option is E.", "E"), ("Dogs bark", "D"), ("no", "")],
)
def test_longvideobench_reads_the_first_capital(text, letter):
    assert choice_rules.longvideobench_letter(text) == letter


def test_qvhighlights(tmp_path):
    truth = {
        "qid": 1, "query": "q", "vid": "v", "duration": 10, "relevant_clip_ids": [0, 1],
        "saliency_scores": [[4, 4, 4], [2, 0, 4]], "relevant_windows": [[0, 4]],
    }  # fmt: skip
    answer = {
        "qid": 1, "pred_relevant_windows": [[0, 4, 0.9], [4, 8, 0.1]],
        "pred_saliency_scores": [5, 4, 3, 2, 1],
    }  # fmt: skip
    queries = qvhighlights.read_truth(write(tmp_path, json.dumps(truth))).records
    answers = qvhighlights.read_submission(write(tmp_path, json.dumps(answer), "s.jsonl")).records
    found = qvhighlights.score_qvhighlights(queries, answers).brief()
    assert found["MR-full-mAP"] == found["MR-short-mAP"] == found["HL-min-VeryGood-Hit1"] == 100
    assert found["MR-long-mAP"] == 0
    with pytest.raises(InputError, match="differ in 1 queries"):
        qvhighlights.score_qvhighlights(queries, [])
    bad = truth | {"relevant_clip_ids": [0, 9]}
    problems = qvhighlights.read_truth(write(tmp_path, json.dumps(bad))).problems
    assert "'relevant_clip_ids' must be in 0..4" in str(problems[0])


def test_proficiency_labels():
    assert egoexo4d.stated_label("Proficiency: late expert, not a novice") == "Late Expert"
    assert egoexo4d.stated_label("an EARLY EXPERT at work") == "Early Expert"
    assert egoexo4d.stated_label("unclear") is None


def test_proficiency_shapes(tmp_path):
    path = write(tmp_path, {
        "videos": ["a"], "ego_model_predictions": [[1, 2, 3]], "exo_model_predictions": [],
    })  # fmt: skip
    with pytest.raises(InputError, match=r"must have the shape \(1, 4\), found \(1, 3\)"):
        egoexo4d.read_logits(path)
    truth = egoexo4d.ProficiencyTruth(takes=("a", "b"), labels=(0, 3), scenarios=("x", "y"))
    logits = egoexo4d.ProficiencyLogits(
        takes=("a", "b"), ego=np.eye(4)[[0, 1]], exo=np.eye(4)[[[0] * 4, [3] * 4]]
    )
    found = egoexo4d.score_views(truth, logits)
    assert {name: one.overall for name, one in found.items()} == {
        "ego": 0.5, "exo": 1.0, "combined": 1.0,
    }  # fmt: skip


def test_tables_print_and_dump():
    table = Table(title="t", columns=("name", "score"), rows=(("a", 0.5), ("bb", None)), decimals=2)
    assert table.text() == "t\nname  score\n----  -----\na      0.50\nbb        -"
    assert table.to_json() == [{"name": "a", "score": 0.5}, {"name": "bb", "score": None}]
