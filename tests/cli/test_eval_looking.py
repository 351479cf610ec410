"""`tgvlm eval` of a model that looks again: held-out questions, and those of a benchmark."""

import dataclasses
import json

import pytest

from tests.cli import small_config
from tests.data.bad_videos import BIKES
from tgvlm_jax.config import freeze
from tgvlm_jax.schema import Experiment, ImitateConfig, TurnsConfig
from tgvlm_jax.train import loop

TURNS = TurnsConfig(pool=10, rate=1.0, first=2, each=2, turns=2, tokens=400, prompts="full")
QUESTION = {
    "video_id": "001", "videoID": BIKES.stem, "duration": "short", "domain": "Life",
    "sub_category": "Sport", "task_type": "Counting", "question": "What is ridden?",
    "options": ["A. A bike.", "B. A boat.", "C. A horse.", "D. A bus."], "answer": "A",
}  # fmt: skip


@pytest.fixture(scope="module")
def run(world, tmp_path_factory):
    small = freeze(small_config.get_config("steps=1"), Experiment)
    decoder = dataclasses.replace(small.model.decoder, vocab_size=520)
    model = dataclasses.replace(small.model, decoder=decoder, evidence=None, two_way_frames=False)
    data = dataclasses.replace(
        small.data, shards=str(world.shards), turns=TURNS, frames=(10,), prompt_tokens=640
    )
    evaluation = dataclasses.replace(small.evaluation, samples=3, batch_size=2)
    folder = tmp_path_factory.mktemp("looks") / "run"
    objective = ImitateConfig()
    looks = dataclasses.replace(
        small, model=model, data=data, objective=objective, evaluation=evaluation
    )
    loop.train(looks, folder)
    return folder


def test_held_out_questions_and_what_was_looked_at(run, tgvlm, tmp_path):
    said = tgvlm("eval", "--checkpoint", run, "--workdir", tmp_path / "out")
    assert said.status == 0, said.err
    found = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert found["questions"] == 3
    assert 0 <= found["scores"]["accuracy"] <= 1
    assert "data:image/jpeg" in (tmp_path / "out" / "report.html").read_text()


def test_a_benchmark_is_answered_turn_by_turn(run, tgvlm, tmp_path):
    path, out = tmp_path / "videomme.json", tmp_path / "out"
    records = [QUESTION | {"question_id": f"001-{i}"} for i in range(1, 4)]
    path.write_text(json.dumps(records))
    words = [
        "eval", "--benchmark", "videomme", "--annotations", path, "--videos", BIKES.parent,
        "--checkpoint", run, "--workdir", out,
    ]  # fmt: skip
    said = tgvlm(*words)
    assert said.status == 0, said.err
    assert "scoring: videomtr" in said.out
    lines = [json.loads(line) for line in (out / "conversations.jsonl").read_text().splitlines()]
    assert [one["question"] for one in lines] == ["001-1", "001-2", "001-3"]
    turns = lines[0]["turns"]
    assert 1 <= len(turns) <= 2
    assert turns[0]["frames"] == [0, 9]
    assert turns[0]["seconds"][0] == 0.0
    answers = [json.loads(line) for line in (out / "answers.jsonl").read_text().splitlines()]
    assert answers[0]["answer"] == turns[-1]["text"]
    page = (out / "conversations.html").read_text()
    assert page.count("What is ridden?") == 3
    assert "data:image/jpeg" in page

    assert tgvlm(*words, "--scoring", "official").status == 0
    assert (
        len((out / "conversations.jsonl").read_text().splitlines()) == 3
    )  # nothing is asked twice
