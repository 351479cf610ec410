"""MLVU, EgoSchema, LVBench and LongVideoBench, on a few records of each layout."""

import pytest

from tgvlm_jax.types import InputError

TURN = "<think>seen</think><answer>{}</answer>"
MLVU = {
    "video": "movie101_66.mp4", "duration": 480.0, "question": "Which colour?",
    "candidates": ["yellow", "red", "green", "blue"], "answer": "red", "question_type": "plotQA",
}  # fmt: skip


def test_mlvu_dev_and_test(opened, scored):
    count = MLVU | {"question_type": "count", "answer": "blue"}
    suite = opened("mlvu", **{"1_plotQA": [MLVU, MLVU], "4_count": [count]})
    assert [one.name for one in suite.questions] == ["1_plotQA/0", "1_plotQA/1", "4_count/0"]
    assert suite.questions[2].video == "4_count/movie101_66.mp4"
    texts = {"1_plotQA/0": "(B) red", "1_plotQA/1": "B", "4_count/0": "B."}
    figures = scored(suite, texts).figures
    assert figures["overall"] == 50  # types count alike
    assert figures["blind"] == 100
    turns = {name: TURN.format("B") for name in texts}
    assert scored(suite, turns, "videomtr").figures["overall"] == pytest.approx(200 / 3)
    assert scored(suite, {"1_plotQA/0": "B"}, "videomtr").figures["overall"] == 0
    six = MLVU | {"question_id": "AR_0", "candidates": [*"uvwxyz"], "answer": "z"}
    suite = opened("mlvu", test_question=[six])
    assert suite.questions[0].name == "AR_0"
    assert suite.questions[0].video == "movie101_66.mp4"
    assert scored(suite, {"AR_0": "F"}, "lmms-eval").figures["overall"] == 100


EGO = {"q_uid": "0074f737", "google_drive_id": "x", "question": "What was the goal?"}
EGO |= {f"option {number}": f"C does {number}." for number in range(5)}


def test_egoschema_asks_what_has_a_public_answer(opened, scored):
    questions = [EGO, EGO | {"q_uid": "other"}]
    suite = opened("egoschema", questions=questions, subset_answers={"0074f737": 3})
    (question,) = suite.questions
    assert (question.name, question.video) == ("0074f737", "0074f737.mp4")
    assert "D. C does 3." in question.text
    assert scored(suite, {"0074f737": "The answer is D"}).figures["overall"] == 100
    row = {"video_idx": "u", "question": "?", "answer": "1", "option": [f"{x}. z" for x in "ABCDE"]}
    suite = opened("egoschema", validation=[row])
    assert "B. z" in suite.questions[0].text
    assert scored(suite, {"u": TURN.format("B")}, "videomtr").figures["overall"] == 100


LVBENCH = {
    "key": "Cm73ma6Ibcs", "type": "cartoon", "video_info": {"duration_minutes": 72},
    "qa": [
        {
            "uid": "0", "question": "What year?\n(A) 1636\n(B) 1366\n(C) 1363\n(D) 1633",
            "answer": "D", "question_type": ["key information retrieval"],
            "time_reference": "00:15-00:19",
        },
        {
            "uid": "1", "question": "Who?\n(A) a\n(B) b\n(C) c\n(D) d", "answer": "A",
            "question_type": ["entity recognition", "reasoning"], "time_reference": "full",
        },
    ],
}  # fmt: skip


def test_lvbench(opened, scored):
    suite = opened("lvbench", video_info__jsonl=[LVBENCH])
    assert [one.video for one in suite.questions] == ["Cm73ma6Ibcs.mp4"] * 2
    figures = scored(suite, {"0": "the year (D) 1633", "1": "B"}).figures
    assert figures["overall"] == 50
    by_type = {
        row["question type"]: row["score"] for row in figures["tables"]["LVBench by question type"]
    }
    assert by_type == {"key information retrieval": 100, "entity recognition": 0, "reasoning": 0}
    assert scored(suite, {"0": TURN.format("D")}, "videomtr").figures["overall"] == 50
    grounded = {"0": "(A) 3 - 9 </evi> (D) 1633"}  # what a D2VLM says after its evidence
    assert scored(suite, grounded).figures["overall"] == 50


LONG = {
    "video_id": "86CxyhFV9MI", "question": "Which subtitle?",
    "question_wo_referring_query": "Which?",
    "candidates": ["one", "two", "three", "four", "five"], "correct_choice": 4, "position": [1],
    "topic_category": "NP-News-Programs", "question_category": "TOS", "level": "L2-Relation",
    "id": "86CxyhFV9MI_0", "video_path": "86CxyhFV9MI.mp4", "subtitle_path": "86CxyhFV9MI_en.json",
    "duration_group": 600, "starting_timestamp_for_subtitles": 0, "duration": 190.16,
}  # fmt: skip


def test_longvideobench(opened, scored):
    four = LONG | {"id": "b", "candidates": [*"wxyz"], "correct_choice": 0, "duration_group": 15}
    suite = opened("longvideobench", lvb_val=[LONG, four])
    figures = scored(suite, {"86CxyhFV9MI_0": "The best answer is E", "b": "no idea"}).figures
    assert figures["overall"] == 100 * (1 + 1 / 4) / 2  # a drawn letter is right once in four
    rows = {
        row["duration"]: row["chance"] for row in figures["tables"]["LongVideoBench by duration"]
    }
    assert rows == {"up to 600 s": 20, "up to 15 s": 25}
    assert scored(suite, {"b": "no idea"}, "lmms-eval").figures["overall"] == 0
    columns = {f"option{n}": text for n, text in enumerate(["x", "y", "N/A", "N/A", "N/A"])}
    row = {name: value for name, value in LONG.items() if name != "candidates"} | columns
    suite = opened("longvideobench", validation=[row | {"correct_choice": 1}])
    assert "B. y" in suite.questions[0].text
    assert "N/A" not in suite.questions[0].text


@pytest.mark.parametrize(
    ("benchmark", "rows", "message"),
    [
        ("mlvu", [MLVU | {"answer": "pink"}], "record 0: 'answer' must be one of yellow, red"),
        ("mlvu", [{"video": "v", "scoring_points": ""}], "has no 'candidates': only a judge"),
        ("egoschema", [EGO], "has no answers; add subset_answers.json"),
        ("egoschema", [EGO | {"answer": 5}], "record 0: 'answer' must be in 0..4, found '5'"),
        ("egoschema", [EGO | {"answer": 1, "option": ["x"]}], "needs 5 options, found 1"),
        ("lvbench", [{"key": "k", "type": "tv"}], "record 0: has no 'qa'"),
        ("lvbench", [LVBENCH | {"qa": [LVBENCH["qa"][0] | {"question": "Who?"}]}],
         "record 0, question 0: needs 2 to 14 options, found 0"),
        ("lvbench", [LVBENCH | {"qa": [LVBENCH["qa"][0] | {"answer": "E"}]}],
         "question 0: 'answer' must be one of A, B, C, D"),
        ("longvideobench", [LONG | {"correct_choice": 5}], "'correct_choice' must be in 0..4"),
        ("longvideobench", [{k: v for k, v in LONG.items() if k != "correct_choice"}],
         "only the validation set has public answers"),
    ],
)  # fmt: skip
def test_bad_records_are_named(opened, benchmark, rows, message):
    with pytest.raises(InputError) as error:
        opened(benchmark, file=rows)
    assert message in str(error.value)
    assert str(error.value).count("\n") == 0
