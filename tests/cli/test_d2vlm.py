"""D2VLM's way, whole, with its tiny twin: annotated videos, SFT, FPO after it, eval and ask."""

import json
import pathlib

import pytest

from tests.data.bad_videos import BIKES
from tgvlm_jax.train.metrics import read_metrics

CONFIGS = pathlib.Path(__file__).resolve().parent.parent.parent / "configs"


def record(question, answer, *, tgt=(), src=(), video="bikes.mp4", task="tvg"):
    turns = [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]
    times = {"tgt": list(tgt), "src": list(src)}
    return {"task": task, "video": video, "duration": 10, "conversations": turns} | times


RECORDS = (
    record("<image>\nWhen does a bike pass?", "<evi></evi> A bike passes in <evi>.", tgt=(2, 5)),
    record("When is the road wet?\n<image>", "<evi></evi> It is wet in <evi>.", tgt=(1, 8.4)),
    record(
        "<image>\nList all events.",
        "<evi><evi></evi> <evi>, a bike comes. <evi>, it leaves.",
        tgt=(0, 3, 4, 9),
        task="dvc",
    ),
    record("What happens in <evi>?", "</evi> A bike passes the camera.", src=(2, 5), task="rar"),
)
BAD = (
    record("When?", "<evi></evi> In <evi>.", tgt=(2, 5), video="gone.mp4"),
    record("When?", "<evi></evi> In <evi>.", tgt=(5, 2)),
)


@pytest.fixture
def words(tmp_path, tgvlm):
    """What names the data on a command line."""
    shards, train, held_out = (tmp_path / name for name in ("shards", "train.json", "val.json"))
    size = ["--fps", "1", "--height", "28", "--workers", "1"]
    assert tgvlm("shard", "--videos", BIKES, "--out", shards, *size).status == 0
    train.write_text(json.dumps([*RECORDS, *BAD]))
    held_out.write_text(json.dumps(RECORDS))
    return [
        f"--config.data.shards={shards}",
        f"--config.data.annotations={train}",
        f"--config.data.eval_annotations={held_out}",
        "--config.train.checkpoint_every=2",
        "--config.train.log_every=1",
    ]


@pytest.mark.slow
def test_sft_then_fpo_then_questions(words, tgvlm, tmp_path):
    sft, fpo = tmp_path / "sft", tmp_path / "fpo"
    first = ["--config", f"{CONFIGS / 'd2vlm_sft.py'}:tiny", "--config.train.steps=3"]
    said = tgvlm("train", *first, *words, "--workdir", sft)
    assert said.status == 0, said.err
    assert "train.json: 4 records about 1 videos; 2 left out, see skipped.jsonl" in said.out
    assert "3 steps, 2 records left out (skipped.jsonl)" in said.out
    skipped = [json.loads(line) for line in (sft / "skipped.jsonl").read_text().splitlines()]
    assert [one["where"][-8:] for one in skipped] == ["record 5", "record 4"]
    metrics = read_metrics(sft / "metrics.jsonl")
    assert len(metrics) == 3
    assert all({"language", "grounding", "consistency"} <= one.keys() for one in metrics)

    second = ["--config", f"{CONFIGS / 'd2vlm_fpo.py'}:tiny", "--config.train.steps=2"]
    said = tgvlm("train", *second, *words, f"--config.train.init_from={sft}", "--workdir", fpo)
    assert said.status == 0, said.err
    assert f"starts from {sft}" in said.out
    assert "fresh" not in said.out
    metrics = read_metrics(fpo / "metrics.jsonl")
    assert all({"preference", "margin", "accuracy"} <= one.keys() for one in metrics)

    said = tgvlm("eval", "--checkpoint", fpo)
    assert said.status == 0, said.err
    scores = json.loads((fpo / "eval" / "metrics.json").read_text())
    assert scores["held_out"]["count"] == 3  # those that ground something
    assert set(scores["kinds"]) == {"tvg", "dvc"}
    asked = ["--video", BIKES, "--out", tmp_path / "answer.html", "When does a bike pass?"]
    said = tgvlm("ask", "--checkpoint", fpo, *asked)
    assert said.status == 0, said.err
    assert (tmp_path / "answer.html").stat().st_size > 1000
    said = tgvlm("ask", "--checkpoint", fpo, *asked[:-1], "--spans", "2-5", "What is in <evi>?")
    assert said.status == 0, said.err


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (
            "'What is in <evi>?'",
            "1 <evi> in the question, but 0 intervals; name each, such as --spans",
        ),
        ("--spans 2-5 'When?'", "0 <evi> in the question, but 1 intervals"),
        ("--spans 2 'In <evi>?'", "--spans '2': give seconds such as 3-9,20-25.5"),
        ("--spans 5-2 'In <evi>?'", "--spans '5-2' ends before it starts"),
    ],
)
def test_questions_that_point_nowhere(fails, words, says):
    assert fails("ask --checkpoint {run} --video {film} " + words).startswith(says)
