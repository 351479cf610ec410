"""`tgvlm eval --benchmark NAME --answers FILE`: small files of the real layouts, no model."""

import json

import pytest

ET = {
    "version": 1.0, "idx": 0, "task": "tvg", "source": "didemo", "video": "didemo/a.mp4",
    "duration": 30.0, "tgt": [2.0, 8.0], "q": "When?", "a": "2 - 8 </evi>It is in 2 - 8 .",
}  # fmt: skip
ET_CHOICE = ET | {"task": "rar", "p": 1, "o": ["run", "jump", "sit", "fly"], "a": "</evi>(A) b"}
CHARADES = "ABC 1.0 5.0##a man sits.\nABC 6.0 9.0##he's up.\n"
COOKING = {
    "image_id": "v.mp4", "id": 0, "duration": 20.0, "segments": [[0, 10], [10, 20]],
    "pure_cap": "cut the onion. fry it", "caption": "",
}  # fmt: skip
MVBENCH = {"video": "v.mp4", "question": "q?", "candidates": ["x", "y"], "answer": "y"}
VIDEOMME = {
    "question_id": "001-1", "video_id": "001", "videoID": "abc", "duration": "short",
    "domain": "Knowledge", "sub_category": "Law", "task_type": "Counting", "question": "q?",
    "options": ["A. a", "B. b", "C. c", "D. d"], "answer": "B",
}  # fmt: skip


@pytest.fixture
def folder(tmp_path):
    files = {
        "et.json": [ET, ET | {"idx": 1, "a": "no idea"}, ET_CHOICE],
        "val.json": {"annotations": [COOKING]},
        "action_count.json": [MVBENCH, MVBENCH],
        "mme.json": [VIDEOMME, VIDEOMME | {"question_id": "001-2", "answer": "C"}],
    }
    for name, content in files.items():
        (tmp_path / name).write_text(json.dumps(content))
    (tmp_path / "sta.txt").write_text(CHARADES)
    return tmp_path


@pytest.fixture
def answers(folder):
    def write(**texts):
        lines = [json.dumps({"question": name, "answer": text}) for name, text in texts.items()]
        path = folder / "answers.jsonl"
        path.write_text("\n".join(lines) + "\n")
        return path

    return write


@pytest.fixture
def scored(folder, tgvlm):
    """What was said, and the figures in metrics.json."""

    def run(benchmark, annotations, path, *words):
        files = ("--annotations", folder / annotations) if annotations else ()
        said = tgvlm(
            "eval", "--benchmark", benchmark, *files, "--answers", path,
            "--workdir", folder / "out", *words,
        )  # fmt: skip
        assert said.status == 0, said.err
        page = (folder / "out" / "report.html").read_text()
        assert page.startswith("<!doctype html>")
        assert "scoring: " in said.out
        assert "scoring: " in page
        return said, json.loads((folder / "out" / "metrics.json").read_text())

    return run


def test_predictions_are_their_own_annotations(folder, scored):
    said, figures = scored("etbench", None, folder / "et.json")
    assert figures["scoring"] == "new"
    assert figures["collected"]["tvg"]["didemo"]["F1"] == 0.5
    assert figures["collected"]["rar"]["didemo"]["Acc"] == 0
    assert "Merged" not in said.out  # other tasks are missing
    assert "sentence similarity: " in said.out
    _, figures = scored("etbench", "et.json", folder / "et.json", "--scoring", "original")
    assert figures["variant"] == "original"


def test_answers_by_question(folder, answers, scored):
    path = answers(**{"tvg/didemo/1": "0 - 1</evi>3 - 8"})
    said, figures = scored("etbench", "et.json", path)
    assert figures["unanswered"] == 2
    assert "questions: 3, without an answer: 2" in said.out
    assert figures["collected"]["tvg"]["didemo"]["F1@0.7"] == 0.5


def test_charades_has_several_rules(answers, scored):
    path = answers(**{"0": "1 - 5</evi>1 - 4 seconds", "1": "none"})
    recalls = {}
    for rules in ("papers", "d2vlm", "videossr"):
        _, figures = scored("charades", "sta.txt", path, "--scoring", rules)
        recalls[rules] = figures["R1@0.7"]
    assert recalls == {"papers": 50, "d2vlm": 100, "videossr": 100}


def test_without_java_detection_is_scored(folder, answers, scored, monkeypatch):
    monkeypatch.setenv("PATH", "")
    path = answers(**{"v.mp4": "0 - 10</evi>0 - 10, cut the onion"})
    said, figures = scored("youcook2", "val.json", path)
    assert said.err.startswith("captions are not scored: needs")
    assert figures["mean"]["F1_Score"] == pytest.approx(2 / 3)
    assert "SODA_c" not in figures["mean"]


def test_multiple_choice(answers, scored):
    path = answers(**{"action_count/0": "B", "action_count/1": "(A) x"})
    assert scored("mvbench", "action_count.json", path)[1]["overall"] == 50
    path = answers(**{"001-1": "The answer is B.", "001-2": "no idea"})
    assert scored("videomme", "mme.json", path)[1]["overall"] == 100
    _, figures = scored("videomme", "mme.json", path, "--scoring", "lmms-eval")
    assert figures["overall"] == 50
    path = answers(**{"001-1": "<answer>B</answer>", "001-2": "<answer>(C)</answer>"})
    said, figures = scored("videomme", "mme.json", path, "--scoring", "videor1")
    assert (figures["overall"], figures["blind"]) == (50, 50)
    assert "best constant answer: 50.00%" in said.out
    path = answers(**{"action_count/0": "<answer>B</answer>", "action_count/1": "B."})
    assert scored("mvbench", "action_count.json", path, "--scoring", "videor1")[1]["overall"] == 50


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--benchmark x --answers et.json", "no such benchmark: 'x'; choose etbench, charades"),
        ("--benchmark etbench", "--annotations FILE is missing"),
        ("--benchmark etbench --annotations et.json", "needs --checkpoint DIR and --videos DIR"),
        ("--benchmark etbench --answers no.json", "no.json: cannot be read"),
        ("--benchmark etbench --answers et.json --scoring y", "has no scoring 'y'; choose new, or"),
        ("--benchmark etbench --answers et.json --checkpoint z", "leave --checkpoint out"),
        ("--answers et.json --checkpoint z", "--answers is about a benchmark"),
        ("", "--checkpoint is missing"),
        ("--benchmark etbench --answers twice.json", "1 questions occur twice, the first is tvg/"),
        ("--benchmark etbench --answers bad.json", "bad.json: record 1: 'tgt' must hold pairs"),
        ("--benchmark etbench --answers bad.json", "(and 1 more bad records)"),
        ("--benchmark etbench --answers none.json", "none.json: no questions in there"),
        ("--benchmark etbench --answers mute.json", "mute.json: record 0: has no 'a'"),
        ("{charades} sta.txt --answers odd.jsonl", "line 2: is no JSON"),
        ("{charades} sta.txt --answers strange.jsonl", "line 1: answers '9'"),
        ("{charades} sta.txt --answers list.jsonl", "must be an object"),
        ("--benchmark mvbench --annotations action_count.json --answers et.json", "as JSON lines"),
        ("{charades} bad.txt --answers odd.jsonl", "bad.txt: record 0: must read"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_one_line(folder, tgvlm, monkeypatch, words, message):
    monkeypatch.chdir(folder)
    files = {
        "twice.json": json.dumps([ET, ET]),
        "bad.json": json.dumps([ET, ET | {"tgt": 3}, ET | {"idx": "x"}]),
        "none.json": "[]",
        "mute.json": json.dumps([{key: value for key, value in ET.items() if key != "a"}]),
        "odd.jsonl": '{"question": "0", "answer": "x"}\n{"question"',
        "strange.jsonl": '{"question": "9", "answer": "x"}\n',
        "list.jsonl": "[1]\n",
        "bad.txt": "ABC 1.0##no end.\n",
    }
    for name, text in files.items():
        (folder / name).write_text(text)
    said = tgvlm(
        "eval",
        *words.format(charades="--benchmark charades --annotations").split(),
        "--workdir",
        folder / "out",
    )
    assert said.status == 2
    assert said.err.startswith("tgvlm: error: ")
    assert said.err.count("\n") == 1
    assert message in said.err
    assert not (folder / "out" / "metrics.json").exists()
