"""VSI-Bench, VideoMMMU, MMVU, VCR-Bench and Video-R1's files, on a few records of each layout."""

import pytest

from tgvlm_jax.types import InputError

VSI = {
    "id": 0, "dataset": "arkitscenes", "scene_name": "41069025", "question_type": "object_counting",
    "question": "How many table(s) are in this room?", "options": None, "ground_truth": "4",
}  # fmt: skip
VSI_CHOICE = VSI | {
    "id": 1, "question_type": "object_rel_direction_easy", "ground_truth": "B",
    "options": ["A. left", "B. right"], "question": "Where is the stove?",
}  # fmt: skip


def test_vsibench(opened, scored):
    hard = VSI_CHOICE | {"id": 2, "question_type": "object_rel_direction_hard"}
    suite = opened("vsibench", test__jsonl=[VSI, VSI_CHOICE, hard, VSI | {"id": 3}])
    assert [one.name for one in suite.questions] == ["0", "1", "2", "3"]
    assert suite.questions[0].video == "arkitscenes/41069025.mp4"
    assert "B. right" in suite.questions[1].text
    assert "single number" in suite.questions[0].text
    assert suite.questions[0].plain == VSI["question"]
    assert suite.questions[1].plain == "Where is the stove?\nOptions:\nA. left\nB. right"
    assert [one.kind for one in suite.questions[:2]] == ["regression", "multiple choice"]
    texts = {"0": "4 tables", "1": "b.", "2": "A", "3": "3"}
    figures = scored(suite, texts).figures
    # Counting: 1 and 0.5 (off by a quarter); directions: the mean of easy and hard.
    assert figures["overall"] == pytest.approx(100 * ((1 + 0.6) / 2 + (1 + 0) / 2) / 2)
    assert figures["blind"] == 100
    texts = {"0": "<answer>4</answer>", "1": "<answer>B</answer>", "2": "b", "3": "2"}
    figures = scored(suite, texts, "videor1").figures
    assert figures["overall"] == pytest.approx(100 * ((1 + 0) / 2 + 1 / 2) / 2)
    by_metric = figures["tables"]["VSI-Bench by metric"]
    assert {row["metric"]: row["answers"] for row in by_metric} == {"MRA": 2, "accuracy": 2}


VIDEOMMMU = {
    "id": "dev_Biology_3", "question": "Which cell?", "options": ["the red", "the blue", "none"],
    "answer": "B", "link_selected": "https://example.org",
}  # fmt: skip
OPEN = VIDEOMMMU | {
    "options": [], "answer": "12.5", "question_type": "open", "id": "test_Art_Theory_1",
}  # fmt: skip


def test_videommmu(opened, scored):
    whole = {
        "Perception": {"0": VIDEOMMMU}, "Comprehension": {"0": VIDEOMMMU | {"answer": "C"}},
        "Adaptation": {"0": VIDEOMMMU | {"question_type": "multiple-choice"}, "1": OPEN},
    }  # fmt: skip
    suite = opened("videommmu", videommmu=whole)
    names = [one.name for one in suite.questions]
    assert names == ["Perception/dev_Biology_3", "Comprehension/dev_Biology_3",
                     "Adaptation/dev_Biology_3", "Adaptation/test_Art_Theory_1"]  # fmt: skip
    assert suite.questions[0].video == "Science/dev_Biology_3.mp4"
    assert suite.questions[3].video == "Art/test_Art_Theory_1.mp4"
    assert "end of the video" in suite.questions[2].text
    assert "end of the video" not in suite.questions[0].text
    texts = dict(zip(names, ["(B)", "(B)", "", "so it is 12.50"], strict=True))
    figures = scored(suite, texts).figures
    assert figures["overall"] == pytest.approx(100 * (1 + 0 + 1) / 3)
    assert figures["unread"] == 1
    figures = scored(suite, texts, "strict").figures
    assert figures["overall"] == pytest.approx(100 * (1 + 0 + 0.5) / 3)
    texts = dict.fromkeys(names, "<answer>12.50</answer>") | {names[0]: "<answer>B</answer>"}
    assert scored(suite, texts, "videor1").figures["overall"] == 50


def test_videommmu_by_the_name_of_the_file(opened):
    suite = opened("videommmu", Perception=[VIDEOMMMU])
    assert suite.questions[0].name == "Perception/dev_Biology_3"


MMVU = {
    "id": "validation_936", "question_type": "multiple-choice", "question": "What follows?",
    "video": "https://example.org/resolve/main/videos/Electronics_and_Communication/24.mp4",
    "youtube_url": "https://example.org", "answer": "E",
    "metadata": {"subject": "Electronics", "textbook": "", "knowledge": [], "rationale": ""},
    "choices": {"A": "v", "B": "w", "C": "x", "D": "y", "E": "z"},
}  # fmt: skip
MMVU_OPEN = MMVU | {
    "id": "validation_937", "question_type": "open-ended", "answer": "Tensilon",
    "choices": dict.fromkeys("ABCDE", ""),
}  # fmt: skip


def test_mmvu_asks_its_multiple_choice(opened, scored):
    suite = opened("mmvu", validation=[MMVU, MMVU_OPEN])
    (question,) = suite.questions
    assert question.video == "Electronics_and_Communication/24.mp4"
    assert "E. z" in question.text
    found = scored(suite, {"validation_936": "<think>?</think><answer>E</answer>"})
    assert found.figures["overall"] == 100
    assert found.figures["judged"] == 1
    assert "1 questions that only a judge can score are not asked" in found.text()
    assert scored(suite, {"validation_936": "E."}).figures["overall"] == 0
    assert scored(suite, {"validation_936": "E."}, "lmms-eval").figures["overall"] == 100


VCR = {
    "id": 3, "video_path": "video/x/a.mp4", "duration": 61, "dimension": "Video Plot Analysis",
    "question": "Why?A. Because.\nB. Another.\n", "multiple-choice": True, "answer": "B",
    "choices": {"A": "Because.", "B": "Another.", "C": "", "D": ""}, "reasoning": ["1. ..."],
}  # fmt: skip


def test_vcrbench(opened, scored):
    none = dict.fromkeys("ABCD", "")
    free = VCR | {"id": 4, "multiple-choice": False, "choices": none, "answer": "Kitchen"}
    when = free | {"id": 5, "answer": "[3, 9]", "duration": 12}
    bare = VCR | {"id": 6, "question": "Why?", "duration": 301}
    suite = opened("vcrbench", meta_info_video=[VCR, free, when, bare])
    assert [one.name for one in suite.questions] == ["3", "5", "6"]
    assert suite.questions[0].text.count("Another.") == 1
    assert suite.questions[0].plain == VCR["question"].strip()
    assert suite.questions[2].plain == "Why?\nOptions:\nA. Because.\nB. Another."
    assert "B. Another." in suite.questions[2].text
    texts = {"3": "<answer>B</answer>", "5": "from [3, 8.5]", "6": "B is right"}
    found = scored(suite, texts).figures
    assert (found["overall"], found["unread"], found["judged"]) == (50, 1, 1)
    found = scored(suite, texts, "rules").figures
    assert found["overall"] == pytest.approx(100)
    by_duration = {
        row["duration"]: row["answers"] for row in found["tables"]["VCR-Bench by duration"]
    }
    assert by_duration == {"60-300": 1, "0-60": 1, "300+": 1}
    assert scored(suite, texts | {"5": "[3, 7]"}, "rules").figures["overall"] < 70


VIDEOR1 = {
    "problem_id": "AR_0", "problem": "Which?", "data_type": "video", "data_source": "VSI",
    "problem_type": "multiple choice", "options": ["A. x", "B. y"],
    "solution": "<answer>B</answer>", "path": "./Evaluation/VSI/a.mp4",
}  # fmt: skip


def test_videor1_files(opened, scored):
    number = VIDEOR1 | {
        "problem_id": 1, "problem_type": "regression", "options": [],
        "solution": "<answer>2.0</answer>",
    }  # fmt: skip
    total = number | {"problem_id": 2, "problem_type": "numerical", "data_source": "maths"}
    suite = opened("videor1", eval_vsibench=[VIDEOR1, number, total])
    assert [one.name for one in suite.questions] == [f"eval_vsibench/{n}" for n in ("AR_0", 1, 2)]
    assert suite.questions[0].video == "Evaluation/VSI/a.mp4"
    texts = {
        "eval_vsibench/AR_0": "<answer>B</answer>", "eval_vsibench/1": "<answer>1.0</answer>",
        "eval_vsibench/2": "<answer>2.00</answer>",
    }  # fmt: skip
    figures = scored(suite, texts).figures
    assert figures["overall"] == 50  # accuracy 1, MRA 0: an error of half meets no tolerance
    found = scored(
        suite, {"eval_vsibench/AR_0": "<think></think>\n<answer> B </answer>"}, "videomtr"
    )
    assert found.figures["overall"] == pytest.approx(100 / 3)


@pytest.mark.parametrize(
    ("benchmark", "row", "message"),
    [
        ("vsibench", VSI | {"ground_truth": "four"}, "'ground_truth' must be a number from 0"),
        ("vsibench", VSI_CHOICE | {"ground_truth": "C"}, "'ground_truth' must be one of A, B"),
        ("vsibench", VSI_CHOICE | {"options": None}, "'options' must be a list, found null"),
        ("vsibench", VSI | {"question_type": "smell"}, "'question_type' must be one of object_rel"),
        ("vsibench", [], "must be an object, found a list"),
        ("mmvu", MMVU | {"answer": "F"}, "'answer' must be one of A, B, C, D, E"),
        ("mmvu", MMVU | {"choices": ["v"]}, "'choices': must be an object, found a list"),
        ("mmvu", MMVU | {"metadata": {}}, "'metadata': has no 'subject'"),
        ("vcrbench", VCR | {"multiple-choice": "yes"}, "'multiple-choice' must be true or false"),
        ("vcrbench", VCR | {"choices": {"A": "x"}}, "needs 2 to 14 options, found 1"),
        ("videor1", VIDEOR1 | {"data_type": "image"}, "'data_type' must be one of video"),
        ("videor1", VIDEOR1 | {"solution": "<answer>y</answer>"}, "'solution' must be one of A, B"),
        ("videor1", VIDEOR1 | {"problem_type": "regression"}, "'solution' must be a number"),
    ],
)  # fmt: skip
def test_bad_records_are_named(opened, benchmark, row, message):
    good = {"vsibench": VSI, "mmvu": MMVU, "vcrbench": VCR, "videor1": VIDEOR1}[benchmark]
    with pytest.raises(InputError) as error:
        opened(benchmark, file=[good, row])
    assert "file.json: record 1: " in str(error.value)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("whole", "message"),
    [
        ({"Recall": {"0": VIDEOMMMU}}, "file.json: Recall/0: is in no track of Perception"),
        ({"Perception": {"7": VIDEOMMMU | {"id": "dev_Magic_1"}}}, "Perception/7: 'id' names no"),
        ({"Perception": [VIDEOMMMU]}, "file.json: Perception: must be an object, found a list"),
        ({"Perception": {"0": VIDEOMMMU | {"answer": "D"}}}, "'answer' must be one of A, B, C"),
    ],
)
def test_bad_tracks_are_named(opened, whole, message):
    with pytest.raises(InputError, match=message):
        opened("videommmu", file=whole)
