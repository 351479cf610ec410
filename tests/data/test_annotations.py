"""E.T. Instruct records of both flavours, and every way in which one can be damaged."""

import copy
import json

import numpy as np
import pytest

from tgvlm_jax.data import annotations
from tgvlm_jax.types import InputError

GOOD = {
    "task": "gvq",
    "source": "egotimeqa",
    "video": "ego/clip.mp4",
    "duration": 60.5,
    "src": [1, 3.5],
    "tgt": [5, 7, 20, 30],
    "conversations": [
        {"from": "human", "value": "<image>\nWhat happens after <evi>?"},
        {"from": "gpt", "value": "<evi><evi></evi> A door opens in <evi> and <evi>."},
    ],
}
TIMES = {
    **{key: GOOD[key] for key in ("task", "source", "video", "duration", "src", "tgt")},
    "conversations": [
        {"from": "human", "value": "<image>\nWhat happens after <vid> - <vid>?"},
        {"from": "gpt", "value": "A door opens in <vid> - <vid> and <vid> - <vid>."},
    ],
}


def changed(base=GOOD, *, question=None, answer=None, **values):
    record = copy.deepcopy(base)
    record |= values
    for turn, value in enumerate((question, answer)):
        if value is not None:
            record["conversations"][turn]["value"] = value
    return {key: value for key, value in record.items() if value is not ...}


def equal(one, other):
    for field in ("task", "source", "video", "duration", "question", "answer", "video_first"):
        assert getattr(one, field) == getattr(other, field)
    np.testing.assert_array_equal(one.sources, other.sources)
    np.testing.assert_array_equal(one.spans, other.spans)


def test_both_flavours_say_the_same():
    one = annotations.parse(GOOD, where="a")
    assert one.question == "What happens after <evi>?"
    np.testing.assert_array_equal(one.spans, [[5, 7], [20, 30]])
    equal(one, annotations.parse(TIMES, where="b"))
    assert annotations.to_times(one) == TIMES
    last = annotations.parse(changed(question="What happens after <evi>?\n<image>"), where="c")
    assert not last.video_first
    equal(last, annotations.parse(annotations.to_times(last), where="d"))


def test_a_moment_is_an_interval_of_no_length():
    record = changed(TIMES, answer="It peaks at <vid>.", tgt=[12], src=..., question="When?")
    found = annotations.parse(record, where="")
    assert found.answer == "<evi></evi> It peaks at <evi>."
    np.testing.assert_array_equal(found.spans, [[12, 12]])
    assert annotations.parse(changed(src=3), where="").sources.tolist() == [[3, 3]]


TURN = {"from": "human", "value": "When?"}
DAMAGED = {
    "no object": (["tvg"], "is a list, not an object"),
    "no task": (changed(task=...), "task is missing"),
    "unknown task": (changed(task="tvq"), "task 'tvq' is none of"),
    "task no text": (changed(task=3), "task is a int, not text"),
    "no video": (changed(video=...), "video is missing"),
    "video elsewhere": (changed(video="../clip.mp4"), "no path below the folder"),
    "video absolute": (changed(video="/clip.mp4"), "no path below the folder"),
    "no duration": (changed(duration=...), "duration is missing"),
    "duration text": (changed(duration="60"), "duration is a str, not seconds"),
    "duration zero": (changed(duration=0), "duration is 0"),
    "duration nan": (changed(duration=float("nan")), "duration is nan"),
    "no turns": (changed(conversations=...), "no list of turns"),
    "one turn": (changed(conversations=[TURN]), "1 turns"),
    "turns swapped": (
        changed(conversations=GOOD["conversations"][::-1]),
        "from 'gpt' where 'human' speaks",
    ),
    "turn no object": (changed(conversations=["When?", TURN]), r"from 'When\?'"),
    "empty question": (changed(question="<image>\n "), "the question is empty"),
    "empty answer": (changed(answer=" "), "the answer is empty"),
    "two videos": (changed(question="<image><image> after <evi>?"), "2 <image> in the question"),
    "video in the answer": (changed(answer="<image>"), "<image> in the answer"),
    "times no numbers": (changed(tgt=["5", 7, 20, 30]), "tgt holds '5', not seconds"),
    "time below zero": (changed(tgt=[-5, 7, 20, 30]), "tgt holds -5"),
    "time infinite": (changed(src=[1, float("inf")]), "src holds inf"),
    "odd times": (changed(tgt=[5, 7, 20]), "tgt holds 3 numbers"),
    "ends before it starts": (changed(tgt=[7, 5, 20, 30]), r"\[7, 5\] ends before it starts"),
    "after the video": (changed(tgt=[5, 7, 70, 80]), r"\[70, 80\] starts after the video's 60.5"),
    "too few in the question": (changed(src=...), "1 <evi> in the question, but 0 intervals"),
    "too many before": (
        changed(answer="<evi><evi><evi></evi> In <evi>, <evi>."),
        "3 <evi> before </evi>, but 2",
    ),
    "too few after": (changed(answer="<evi><evi></evi> In <evi>."), "1 <evi> after </evi>, but 2"),
    "no end": (changed(answer="<evi><evi> In <evi>, <evi>."), "0 </evi> in the answer"),
    "two ends": (changed(answer="<evi></evi><evi></evi> <evi> <evi>"), "2 </evi> in the answer"),
    "end in the question": (changed(question="After <evi></evi>?"), "</evi> in the question"),
    "text first": (changed(answer="In <evi>, <evi></evi> <evi> <evi>."), "text among the <evi>"),
    "both flavours": (changed(question="After <vid> - <vid>?"), "mixes <vid> and <evi>"),
    "times and tokens": (changed(TIMES, tgt=[5, 7]), "4 <vid> but 2 numbers in tgt"),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_record_is_named_and_the_rest_goes_on(name, tmp_path):
    record, reason = DAMAGED[name]
    path = tmp_path / "evi.json"
    path.write_text(json.dumps([GOOD, record, TIMES]))
    found = annotations.load(path)
    assert len(found.kept) == 2
    assert [one.where for one in found.rejected] == ["evi.json, record 1"]
    with pytest.raises(InputError, match=reason):
        raise InputError(found.rejected[0].reason)


def test_filters_are_counted(tmp_path):
    long = changed(answer="<evi><evi></evi> In <evi> and <evi>" + " word" * 200)
    records = [GOOD, changed(duration=3.0, src=[1, 2], tgt=[0, 1, 2, 3]), changed(duration=351)]
    path = tmp_path / "evi.jsonl"
    path.write_text("\n".join(json.dumps(record) for record in [*records, long]))
    found = annotations.load(path)
    assert len(found.kept) == 1
    assert not found.rejected
    assert sorted(found.filtered.values()) == [1, 2]
    assert len(annotations.load(path, filters=annotations.KEEP_ALL).kept) == 4


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[", "no JSON"),
        ("{}", "holds a dict, not a list"),
        ("[]", "no usable record"),
        ("[3]", "no usable record among 1; evi.json, record 0: is a int"),
    ],
)
def test_a_file_without_a_record(text, reason, tmp_path):
    path = tmp_path / "evi.json"
    path.write_text(text)
    with pytest.raises(InputError, match=reason):
        annotations.load(path)
    with pytest.raises(InputError, match="cannot be read"):
        annotations.load(tmp_path / "none.json")
