"""The demo, small: one run from the film to the report, then again, then from the beginning."""

import json
import shlex

import pytest

from tests.cli import small_config
from tests.data.bad_videos import BIKES
from tgvlm_jax.cli import demo_run

STEPS = [f"[{number}/6" for number in range(1, 7)]


@pytest.fixture
def demo(tgvlm, tmp_path, monkeypatch):
    monkeypatch.setattr(demo_run, "FILM", BIKES)  # the notebook's test has the long film
    words = ["demo", "--config", small_config.__file__, "--workdir", tmp_path / "demo"]
    return lambda *more: tgvlm(*words, *more)


def test_demo(demo, tgvlm, tmp_path):
    folder = tmp_path / "demo"
    said = demo()
    assert (said.status, said.err) == (0, "")
    assert [line[:4] for line in said.out.splitlines() if line.startswith("[")] == STEPS
    assert "supervised fine-tuning: 0.0 M parameters, 60 steps" in said.out
    assert "worse answers: 0.0 M parameters, 11 steps" in said.out
    assert {path.name for path in folder.iterdir()} == {
        "shards", "seed0", "seed0-fpo", "seed0-grpo", "metrics.json", "report.html", "example.mp4"
    }  # fmt: skip
    found = json.loads((folder / "metrics.json").read_text())
    for stage, scores in (("sft", found["sft"]), ("grpo", found["held_out"])):
        mean = scores["mean_iou"]
        assert found["seeds"][stage] == {"mean_iou": [mean], "mean": mean, "std": 0.0}
    assert "starts from" in said.out
    assert found["before"]["count"] == found["held_out"]["count"] == 6
    assert "Big Buck Bunny" in (folder / "report.html").read_text()

    # The last line is a command that works.
    line = next(line for line in said.out.splitlines() if line.startswith("try:"))
    words = shlex.split(line.removeprefix("try:"))
    assert words[0] == "tgvlm"
    page = tmp_path / "answer.html"
    asked = tgvlm(*words[1:], "--out", page)
    assert (asked.status, asked.err) == (0, "")
    assert page.exists()


@pytest.mark.slow
def test_demo_again_and_anew(demo, tmp_path):
    folder = tmp_path / "demo"
    assert demo().status == 0
    found = json.loads((folder / "metrics.json").read_text())
    again = demo("--seeds=2")
    assert (again.status, again.err) == (0, "")
    assert "60 steps, model 1 of 2\ntrained already; --fresh trains again\n" in again.out
    assert again.out.count("step 60/60") == 1  # of the second model
    assert "\nSFT: mIoU over 2 seeds: " in again.out
    assert "\nFPO: mIoU over 2 seeds: " in again.out
    assert "\nGRPO: mIoU over 2 seeds: " in again.out
    both = json.loads((folder / "metrics.json").read_text())
    assert both["held_out"] == found["held_out"]
    for stage in ("sft", "fpo"):
        assert both["seeds"][stage]["mean_iou"][:1] == found["seeds"][stage]["mean_iou"]

    other = demo("--config.train.steps=61")
    assert other.status == 2
    assert f"{folder / 'seed0'}: holds a run with train.steps=60, the config says 61" in other.err
    assert other.err.endswith("; or start anew: --fresh\n")
    assert other.out == ""
    wrong = demo("--fresh", "--config.data.frames=0")
    assert wrong.status == 2
    assert (folder / "report.html").exists()

    fresh = demo("--fresh")
    assert (fresh.status, fresh.err) == (0, "")
    assert "step 60/60" in fresh.out
    assert json.loads((folder / "metrics.json").read_text()) == found


def test_fresh_deletes_nothing_but_a_demo(demo, tmp_path):
    letters = tmp_path / "demo" / "letters.txt"
    letters.parent.mkdir()
    letters.write_text("dear")
    said = demo("--fresh")
    assert said.status == 2
    about = "--fresh deletes only an earlier demo, and this is none"
    assert said.err == f"tgvlm: error: {letters.parent}: {about}\n"
    assert letters.read_text() == "dear"
