"""VideoP2R's records: the released schema in and out, and what is wrong with one."""

import gzip
import json

import numpy as np
import pytest

from tgvlm_jax.data import annotations, process_prompt, process_records, record_files
from tgvlm_jax.types import InputError

RECORD = {
    "problem": "What colour is the car?",
    "options": ["A. red", "B. blue"],
    "solution": "<answer>B</answer>",
    "path": "./LLaVA-Video-178K/a/clip.mp4",
    "data_type": "video",
    "problem_type": "multiple choice",
    "output": "<observation>It is blue.</observation>\n<think>B.</think>\n<answer>B</answer>",
    "reward": 1.0,
}


def test_a_record_as_it_is_asked():
    found = process_records.parse(RECORD)
    assert found.question == "What colour is the car?Options:\nA. red\nB. blue"
    assert (found.truth, found.path) == ("B", "LLaVA-Video-178K/a/clip.mp4")
    number = RECORD | {"problem_type": "numerical", "solution": "3.5"}
    assert process_records.parse(number).question == RECORD["problem"]
    assert process_records.parse(number).truth == "3.5"


@pytest.mark.parametrize("options", ['["A. red", "B. blue"]', "['A. red', 'B. blue']"])
def test_options_written_as_text(options):
    found = process_records.parse(RECORD | {"options": options})
    assert found.options == ("A. red", "B. blue")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"problem": ""}, "problem is empty"),
        ({"solution": None}, "solution is no text"),
        ({"problem_type": "essay"}, "problem_type 'essay' is none of multiple choice"),
        ({"path": "/etc/x.mp4"}, "no path below the data folder"),
        ({"path": "../x.mp4"}, "no path below the data folder"),
        ({"options": "A, B"}, "options 'A, B' is no list"),
        ({"options": [1]}, "options is no list of texts"),
        ({"data_type": "sound"}, "data_type 'sound' is neither"),
        ({"output": 3}, "output is no text"),
    ],
)
def test_a_bad_record_is_named(changes, reason):
    with pytest.raises(InputError, match=reason):
        process_records.parse(RECORD | changes)


def test_parts_go_out_and_come_in_again(tmp_path):
    records = [RECORD | {"problem_id": n, "problem": f"Früher? {n}"} for n in range(5)]
    record_files.write(tmp_path, "set", records=records, parts=3)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == [f"set.part{n}of3.json.gz" for n in (1, 2, 3)]
    assert record_files.read(tmp_path / "set.part*of3.json.gz") == records
    before = [(tmp_path / name).read_bytes() for name in names]
    record_files.write(tmp_path, "set", records=records, parts=3)
    assert [(tmp_path / name).read_bytes() for name in names] == before
    assert json.loads(gzip.decompress(before[0])) == records[:2]
    with pytest.raises(InputError, match="no such file"):
        record_files.read(tmp_path / "other.part*.json.gz")
    (tmp_path / "cut.json.gz").write_bytes(before[0][:-20])
    with pytest.raises(InputError, match=r"cut\.json\.gz: cannot be read"):
        record_files.read(tmp_path / "cut.json.gz")


def test_annotations_take_them(tmp_path):
    bad = RECORD | {"path": ""}
    (tmp_path / "sft.json").write_text(json.dumps([RECORD, bad, RECORD | {"output": ""}]))
    found = annotations.load(tmp_path / "sft.json")
    assert [one.answer for one in found.kept] == [RECORD["output"], RECORD["solution"]]
    assert [one.truth for one in found.kept] == ["B", "B"]
    assert np.isnan(found.kept[0].duration)
    assert found.kept[0].task == "multiple choice"
    assert [one.reason for one in found.rejected] == ["path is empty"]


def test_the_prompt_says_what_is_wanted():
    asked = process_prompt.instruct("Why?", instruction="process", kind="numerical")
    for text in (
        "Based on the question, I need to notice",
        "Based on the observations,",
        "</observation>",
        "</think>",
        "</answer>",
        "such as 42 or 3.14",
    ):
        assert text in asked
    assert asked.startswith("Why?")
    assert process_prompt.instruct("Why?", instruction="", kind="numerical") == "Why?"
    assert set(process_prompt.FORMS) == set(process_records.KINDS)
