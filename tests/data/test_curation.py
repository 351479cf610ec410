"""NExT-GQA and QVHighlights in their published formats -> questions to be looked into."""

import json

import numpy as np
import pytest

from tgvlm_jax.data import curation, looking, record_files
from tgvlm_jax.types import InputError

HEADER = "video_id,frame_count,width,height,question,answer,qid,type,a0,a1,a2,a3,a4\n"
ROWS = """\
111,900,640,480,what does the cat do after the ball stops,jumps,3,TN,sleeps,jumps,eats,runs off,sits
111,900,640,480,why is the cat by the door,wants out,4,CW,wants out,is cold,is fed,plays,hides
222,700,640,480,how does the man open it,with a knife,0,CH,by hand,with a knife,kicks it,asks,waits
333,400,640,480,who waves,the boy,1,TC,the boy,a dog,nobody,a girl,the man
"""
LOCATED = {
    "111": {"duration": 60, "location": {"3": [[10.0, 15.5], [14.0, 20.0]], "4": [[0.0, 30.5]]}},
    "222": {"duration": 30, "location": {"0": [[1.0, 2.0]]}},
    "333": {"duration": 45, "location": {}},
}


@pytest.fixture
def nextgqa(tmp_path):
    (tmp_path / "val.csv").write_text(HEADER + ROWS)
    (tmp_path / "gsub_val.json").write_text(json.dumps(LOCATED))
    (tmp_path / "map_vid_vidorID.json").write_text(json.dumps({"111": "0001/111"}))
    return tmp_path


def sentence(number, **changes):
    one = {
        "qid": number,
        "query": f"Somebody does thing {number}",
        "duration": 150,
        "vid": f"abc_{number}.0_150.0",
        "relevant_clip_ids": [5],
        "saliency_scores": [[3, 3, 3]],
        "relevant_windows": [[10, 12]],
    }
    return one | changes


def reply(number, **changes):
    options = ["A. one", "B. two", "C. three", "D. four"]
    one = {"qid": number, "suitable": True, "question": "What?", "options": options, "answer": "C"}
    return one | changes


def test_the_papers_filters(nextgqa):
    found = curation.curate(curation.nextgqa(nextgqa))
    (one,) = found.records
    assert one["problem_id"] == "nextgqa_111_3"
    assert one["problem"] == "What does the cat do after the ball stops?"
    assert one["solution"] == "<answer>B</answer>"
    assert one["options"][1] == "B. jumps"
    assert one["path"] == "NExTVideo/0001/111.mp4"
    assert found.left_out == {
        "relevant part is none, or half of the video or more": 2,
        "video of 30 s or less": 1,
    }


@pytest.mark.parametrize(
    ("windows", "kept"),
    [
        ([[0, 29.9]], True),
        ([[0, 30]], False),
        ([[0, 20], [10, 29]], True),  # together, what lies in both counted once
        ([[40, 60], [0, 15]], False),
        ([], False),
    ],
)
def test_the_relevant_part_is_less_than_half(windows, kept):
    found = looking.enough(60.0, np.asarray(windows, np.float64).reshape(-1, 2))
    assert (found == "") == kept


def test_sentences_become_questions_where_they_are_suited():
    sentences = [sentence(i) for i in range(6)] + [sentence(6, relevant_windows=[[0, 75]])]
    replies = [
        reply(0),
        reply(1, suitable=False),
        reply(2, options=["A. one", "A. one", "C. three", "D. four"]),
        reply(3, answer="E"),
        reply(4, discriminative=False),
        reply(6),
    ]
    found = curation.curate(curation.written(sentences, replies))
    assert [one["problem_id"] for one in found.records] == ["qvhighlights_0"]
    assert found.records[0]["relevant_windows"] == [[10.0, 12.0]]
    assert sum(found.left_out.values()) == 6
    assert found.left_out["nobody wrote a question"] == 1
    asked = curation.requests(sentences)
    assert [one["qid"] for one in asked] == [0, 1, 2, 3, 4, 5]
    assert "Somebody does thing 3" in asked[3]["prompt"]


def test_the_command_writes_what_the_source_reads(nextgqa, tmp_path, capsys):
    lines = tmp_path / "highlights.jsonl"
    lines.write_text(json.dumps(sentence(7)) + "\n")
    (tmp_path / "written.jsonl").write_text(json.dumps(reply(7)) + "\n")
    out = tmp_path / "set.json"
    curation.main(
        [
            *("--nextgqa", str(nextgqa), "--qvhighlights", str(lines)),
            *("--written", str(tmp_path / "written.jsonl"), "--out", str(out)),
        ]
    )
    assert "NExT-GQA: 1 kept" in capsys.readouterr().out
    records = record_files.read(out)
    read = [looking.parse(one, where=str(i)) for i, one in enumerate(records)]
    assert [one.answer for one in read] == ["B", "C"]
    assert [one.source for one in read] == ["NExT-GQA", "QVHighlights"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"solution": "<answer>F</answer>"}, "none of the options' letters"),
        ({"problem_type": "regression"}, "problem_type 'regression'"),
        ({"relevant_windows": [[5, 3]]}, "ends before it starts"),
        ({"relevant_windows": [[5]]}, "no pairs of seconds"),
        ({"problem": None}, "problem is None"),
    ],
)
def test_broken_records(nextgqa, change, message):
    (one,) = curation.curate(curation.nextgqa(nextgqa)).records
    with pytest.raises(InputError, match=message):
        looking.parse(one | change, where="set.json, record 0")


def test_files_that_are_not_there(tmp_path):
    with pytest.raises(InputError, match=r"neither val\.csv nor test\.csv"):
        list(curation.nextgqa(tmp_path))
    (tmp_path / "val.csv").write_text("a,b\n1,2\n")
    (tmp_path / "gsub_val.json").write_text("{}")
    with pytest.raises(InputError, match="no row of NExT-GQA"):
        list(curation.nextgqa(tmp_path))
