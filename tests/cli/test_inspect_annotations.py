"""tgvlm inspect --annotations: what is in a file, and every record that is bad."""

import json

import pytest

from tests.data.test_annotations import DAMAGED, GOOD, changed

TURNS = GOOD["conversations"]


@pytest.fixture
def annotations(tmp_path):
    def write(*records):
        path = tmp_path / "evi.json"
        path.write_text(json.dumps(records))
        return path

    return write


def test_a_good_file(tgvlm, annotations):
    said = tgvlm("inspect", "--annotations", annotations(GOOD, changed(task="dvc", duration=400)))
    assert said.status == 0
    lines = said.out.splitlines()
    assert lines[0].endswith("evi.json: 2 records, 1 to train on")
    assert lines[3].split() == ["gvq", "1", "1", "2.0", "1.0", "60.5"]
    assert "left out, video not of 5 to 350 seconds: 1" in lines
    start = lines.index("evi.json, record 0: gvq, ego/clip.mp4, 60.5 s")
    prompt, asked, answer = lines[start + 2 : start + 5]
    assert prompt.endswith("<|user|><frame> x 61")
    assert asked.strip() == "What happens after <evi>?<|end|><|assistant|>"
    assert answer.endswith(" tokens, all learned:")
    assert lines[start + 5].strip() == TURNS[1]["value"] + "<|end|>"
    assert lines[start + 6] == "question's <evi> 1: 1 s to 3.5 s, frames 1 to 3.5"
    assert lines[start + 7] == "answer's <evi> 1 and 3: 5 s to 7 s, frames 5 to 7 of 61"
    assert lines[start + 8].startswith("  |  ▁▂▄███▄▂▁")


def test_every_bad_record_is_named(tgvlm, annotations):
    said = tgvlm("inspect", "--annotations", annotations(GOOD, *(r for r, _ in DAMAGED.values())))
    assert said.status == 1
    assert f"{len(DAMAGED)} bad records:" in said.out
    for number in range(1, len(DAMAGED) + 1):
        assert f"\n  evi.json, record {number}: " in said.out


def test_videos_are_looked_up(tgvlm, annotations, world):
    here = changed(video="bikes.mp4", duration=10, tgt=[1, 2, 3, 4])
    path = annotations(here, GOOD)
    words = [*world.config, "--config.data.min_seconds=0", "--config.data.max_sources=1"]
    words += ["--config.data.max_events=2", "--shards", world.shards]
    said = tgvlm("inspect", "--annotations", path, *words)
    assert said.status == 1
    assert "evi.json, record 1: video 'ego/clip.mp4' is not in" in said.out
    assert "1 bad records" in said.out
    assert "frames 8 to 15 of 80" in said.out  # 8 frames a second, covered


def test_what_cannot_be_shown(fails, annotations):
    path = annotations(GOOD)
    assert "--record 7: there are 1 good ones" in fails(
        "inspect --annotations {f} --record 7", f=path
    )
    assert "no JSON" in fails("inspect --annotations {film}")


def test_records_of_videop2r_say_no_length(tgvlm, annotations):
    record = {
        "problem": "What colour?",
        "options": ["A. red", "B. blue"],
        "solution": "<answer>B</answer>",
        "path": "car.mp4",
        "problem_type": "multiple choice",
        "output": "<observation>x</observation><think>B.</think><answer>B</answer>",
    }
    said = tgvlm("inspect", "--annotations", annotations(record))
    assert said.status == 0, said.err
    assert "multiple choice, car.mp4, unknown length" in said.out
    assert "<observation>x</observation>" in said.out
    assert "nan" not in said.out
