"""`tgvlm cot` as a person runs it, and the whole chain on the tiny Qwen2.5-VL."""

import base64
import json
import pathlib

import pytest

from tests.data.bad_videos import BIKES
from tests.judges.test_http import Endpoint
from tgvlm_jax.data.shard_writer import write_shards
from tgvlm_jax.train.metrics import read_metrics

CONFIGS = pathlib.Path(__file__).resolve().parent.parent.parent / "configs"
TRACE = (
    "<observation>Based on the question, I need to notice bikes: there are two."
    "</observation><think>Based on the observations, the answer is B.</think><answer>B</answer>"
)


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bikes")
    write_shards([BIKES], folder, fps=2, height=24, width=32, workers=1, progress=False)
    return folder


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    path = tmp_path_factory.mktemp("records") / "rl.json"
    record = {
        "problem": "How many bikes are there?",
        "options": ["A. one", "B. two"],
        "solution": "<answer>B</answer>",
        "path": "bikes.mp4",
        "data_type": "video",
        "problem_type": "multiple choice",
    }
    made = [record | {"problem": f"How many bikes at {n} s?"} for n in range(5)]
    made[3] = record | {"path": "cars.mp4"}
    path.write_text(json.dumps(made))
    return path


class Writer(Endpoint):
    """Sees frames and a question, and writes a trace; fails at first where it is told to."""

    def __init__(self, *, failing=0):
        super().__init__()
        self.failing = failing

    def act(self, handler, what):
        if len(self.seen) <= self.failing:
            super().act(handler, "500")
            return
        data = json.dumps({"choices": [{"message": {"content": TRACE}}]}).encode()
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(data)))
        handler.end_headers()
        handler.wfile.write(data)


def words(shards, records, out, *more):
    return ("cot", "--records", records, "--shards", shards, "--out", out, *more)


def test_an_endpoint_writes_fails_and_is_asked_again(tgvlm, shards, records, tmp_path):
    writer = Writer(failing=1)
    asked = words(shards, records, tmp_path, "--url", writer.url, "--model", "m", "--retries", 0)
    options = ("--concurrency", 1, "--frames", 3, "--cache", tmp_path / "cache")
    first = tgvlm(*asked, *options)
    assert first.status == 3, first.err
    assert "1 undecided (status 500: oops); the same command asks again" in first.out
    again = tgvlm(*asked, *options)
    assert again.status == 0, again.err
    assert "5 records: 4 kept; dropped: video cannot be read: 1" in again.out
    assert len(writer.seen) == 5  # three replies at once, one at the second try
    content = writer.seen[0][1]["messages"][0]["content"]
    assert [part["type"] for part in content] == ["text", "image_url"] * 3 + ["text"]
    image = content[1]["image_url"]["url"].removeprefix("data:image/jpeg;base64,")
    assert base64.b64decode(image)[:2] == b"\xff\xd8"
    assert "How many bikes at" in content[-1]["text"]
    assert "such as A or B" in content[-1]["text"]
    writer.close()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ((), "who writes? give --checkpoint, or --url with --model"),
        (("--url", "http://a/v1"), "needs judge.url and judge.model"),
        (("--url", "a", "--model", "m"), "no URL such as"),
        (("--url", "http://a", "--model", "m", "--judge", "http"), "judge.kind='http' needs"),
        (("--url", "http://a", "--model", "m", "--threshold", "2"), "give 0 to 1"),
    ],
)
def test_wrong_input_is_one_line(more, message, tgvlm, shards, records, tmp_path):
    said = tgvlm(*words(shards, records, tmp_path / "out", *more))
    assert said.status == 2
    assert message in said.err
    assert said.err.count("\n") == 1


def train(tgvlm, stage, shards, records, workdir, *more):
    said = tgvlm(
        "train",
        *("--config", f"{CONFIGS / f'videop2r_{stage}'}.py:tiny,steps=2"),
        *(f"--config.data.shards={shards}", f"--config.data.annotations={records}"),
        *("--config.data.frames=(4,)", "--config.data.prompt_tokens=160"),
        *("--config.data.batch_size=2", *more, "--workdir", workdir),
    )
    assert said.status == 0, said.err
    return read_metrics(workdir / "metrics.jsonl")


@pytest.mark.slow
def test_the_chain(tgvlm, shards, records, tmp_path):
    """A model of ours writes and judges; another's traces are learned, then rewarded."""
    twin = tmp_path / "twin"
    train(tgvlm, "sft", shards, records, twin)
    own = ("--checkpoint", twin, "--judge", "local", "--judge_checkpoint", twin)
    said = tgvlm(*words(shards, records, tmp_path / "own", *own, "--max_tokens", 8))
    assert said.status == 0, said.err
    assert "0 kept; dropped: video cannot be read: 1, template: 4" in said.out

    writer = Writer()
    asked = ("--url", writer.url, "--model", "m")
    assert tgvlm(*words(shards, records, tmp_path / "cot", *asked)).status == 0
    writer.close()
    kept = tmp_path / "cot" / "cot.json.gz"
    learned = train(tgvlm, "sft", shards, kept, tmp_path / "sft")
    assert learned[1]["loss"] < learned[0]["loss"]
    start = f"--config.train.init_from={tmp_path / 'sft'}"
    local = (
        "--config.objective.process.judge.kind=local",
        f"--config.objective.process.judge.checkpoint={twin}",
        "--config.objective.max_tokens=16",
    )
    for advantages in ("separate", "reasoning"):
        switch = f"--config.objective.process.advantages={advantages}"
        workdir = tmp_path / advantages
        log = train(tgvlm, "pagrpo", shards, records, workdir, start, *local, switch)
        assert len(log) == 2
        for line in log:
            assert line["old_kl"] < 1e-5
            assert {"perception_accuracy", "equal_perception", "silent_groups"} <= set(line)
        assert (workdir / "rollouts.html").exists()
