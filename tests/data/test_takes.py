"""Ego-Exo4D's annotation files, as they are and damaged; commentaries cut at sentences."""

import json

import pytest

from tgvlm_jax.data import takes
from tgvlm_jax.schema import PROFICIENCY
from tgvlm_jax.types import InputError

PATHS = {"ego": "t/aria01.mp4", "exo1": "t/cam01.mp4", "exo2": None}


def record(uid="a", **change):
    made = {
        "task_id": 1,
        "task_name": "Layup",
        "take_uid": uid,
        "scenario_name": "Basketball",
        "university_id": "u",
        "origin_participant_id": 7,
        "video_paths": PATHS,
        "proficiency_score": "Early Expert",
    }
    return {**made, **change}


def written(path, annotations):
    path.write_text(json.dumps({"ds": "1", "annotations": annotations}))
    return path


def remark(text, error=None):
    return {"recording": "0.webm", "video_time": 1.0, "text": text, "error": error}


def test_takes_with_what_each_expert_said(tmp_path):
    path = written(tmp_path / "train.json", [record(), record("b")])
    said = written(
        tmp_path / "said.json",
        {
            "a": [
                {"commentary_data": [remark("Good  feet. "), remark(None, "noise"), remark("Ok.")]},
                {"commentary_data": []},
                {"commentary_data": [remark("Slow.")]},
            ],
            "unknown": [{"commentary_data": [remark("x")]}],
        },
    )
    found = takes.load(path, said, levels=PROFICIENCY)
    first, second = found.kept
    assert first.commentaries == ("Good feet. Ok.", "Slow.")
    assert second.commentaries == ()
    assert first.paths == {"ego": "t/aria01.mp4", "exo1": "t/cam01.mp4"}
    assert (first.scenario, first.level, found.rejected) == ("Basketball", "Early Expert", [])


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        (record("b", proficiency_score="Master"), "'Master' is none of Novice"),
        (record("b", proficiency_score=None), "'proficiency_score' must be a text, found nothing"),
        (record("b", video_paths=[]), "'video_paths' must be an object, found a list"),
        (record("b", video_paths={"ego": 3}), "no path for 'ego', but a int"),
        (record("b", video_paths={"ego": None}), "names no video"),
        (record("b", scenario_name=" "), "'scenario_name' must be a text"),
        (record(), "take 'a' is there twice"),
        ("b", "a record is an object, found a text"),
    ],
)
def test_a_damaged_record_is_named_and_the_rest_is_read(tmp_path, bad, says):
    path = written(tmp_path / "train.json", [record(), bad])
    found = takes.load(path, levels=PROFICIENCY)
    assert [take.uid for take in found.kept] == ["a"]
    (rejected,) = found.rejected
    assert rejected.where == "train.json, record 1"
    assert says in rejected.reason
    assert "\n" not in rejected.reason


def test_damaged_commentary(tmp_path):
    path = written(tmp_path / "train.json", [record()])
    data = [{"commentary_data": 3}, {"commentary_data": ["x"]}, {"commentary_data": [remark("y")]}]
    found = takes.load(path, written(tmp_path / "said.json", {"a": data}), levels=PROFICIENCY)
    assert found.kept[0].commentaries == ("y",)
    assert [one.where for one in found.rejected] == [
        "said.json, take a, expert 0",
        "said.json, take a, expert 1",
    ]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "no JSON"),
        ("[]", "'annotations' must be a list, found nothing"),
        ('{"annotations": {}}', "'annotations' must be a list, found an object"),
        ('{"annotations": []}', "no usable take among 0 records"),
    ],
)
def test_a_file_that_is_none(tmp_path, text, says):
    path = tmp_path / "train.json"
    path.write_text(text)
    with pytest.raises(InputError, match=says):
        takes.load(path, levels=PROFICIENCY)
    with pytest.raises(InputError, match="cannot be read"):
        takes.load(tmp_path / "none.json", levels=PROFICIENCY)


def test_the_authors_scenarios_are_words_in_the_path():
    def scenario(path):
        take = takes.parse(record(video_paths={"ego": path}), where="", levels=PROFICIENCY)
        return take.keyword()

    assert scenario("takes/unc_basketball_1/cam.mp4") == "basketball"
    assert scenario("takes/upenn_0_Dance_2/cam.mp4") == "music"  # a capital, as they have it
    assert scenario("takes/utokyo_soccer_3/cam.mp4") == "soccer"


def test_answers_have_the_level_first_or_last():
    assert takes.answer("Novice", "Slow.", label="first") == "Proficiency: Novice\nAnalysis: Slow."
    assert takes.answer("Novice", "Slow.", label="last") == "Analysis: Slow.\nProficiency: Novice"
    assert takes.answer("Novice", "", label="last") == "Proficiency: Novice"


@pytest.mark.parametrize(
    ("most", "wanted"),
    [
        (99, "One. Two is 2.5 m! Three?"),
        (24, "One. Two is 2.5 m!"),
        (17, "One."),
        (18, "One. Two is 2.5 m!"),
        (3, ""),
    ],
)
def test_cut_at_a_sentence(most, wanted):
    assert takes.cut("One. Two is 2.5 m! Three?", most) == wanted


def test_without_a_sentence_words_are_cut():
    assert takes.cut("one two three four", 9) == "one two"
