"""`tgvlm viubench`: questions are made once, a model is asked, a stopped run goes on."""

import json

import pytest

from tgvlm_jax.evaluation.viubench import COLUMNS


@pytest.fixture
def config(world):
    return [*world.config, "--config.data.frames=(24,)"]


def test_made_asked_and_scored(world, config, tgvlm, tmp_path):
    words = ["viubench", "--shards", world.shards, "--out", tmp_path, "--each", 1, "--frames", 24]
    made = tgvlm(*words, *config)
    assert made.status == 0, made.err
    assert "9 questions about 1 videos" in made.out
    path = tmp_path / "questions.json"
    questions = json.loads(path.read_text())["questions"]
    assert [row["subset"] for row in questions] == list(COLUMNS)

    asked = tgvlm(*words, *config, "--checkpoint", world.run, "--workdir", tmp_path / "eval")
    assert asked.status == 0, asked.err
    assert "9 questions are there" in asked.out
    for name in ("this model", "best blind answer", "partial credit", "All"):
        assert name in asked.out
        assert name in (tmp_path / "eval" / "report.html").read_text()
    answers = tmp_path / "eval" / "answers.jsonl"
    first = answers.read_text()
    assert len(first.splitlines()) == 9
    figures = json.loads((tmp_path / "eval" / "metrics.json").read_text())
    assert figures["benchmark"] == "viubench"
    assert figures["unanswered"] == 0
    assert 0 < figures["blind"]["whole video"]["G"] < 50

    # A run that was stopped goes on; what is answered is not asked again.
    lines = first.splitlines()
    kept = [json.dumps(json.loads(lines[0]) | {"answer": "kept"}), *lines[1:5]]
    answers.write_text("\n".join(kept) + "\n")
    again = tgvlm(*words, *config, "--checkpoint", world.run, "--workdir", tmp_path / "eval")
    assert again.status == 0, again.err
    assert answers.read_text().splitlines() == [kept[0], *lines[1:]]

    scored = tgvlm(
        "eval", "--benchmark", "viubench", "--annotations", path, "--answers", answers,
        "--scoring", "anywhere", "--workdir", tmp_path / "scored",
    )  # fmt: skip
    assert scored.status == 0, scored.err
    assert "scoring: anywhere" in scored.out


def test_what_is_refused(world, fails, tgvlm, tmp_path):
    base = "viubench --shards {shards} --out {out}"
    said = tgvlm(
        "viubench", "--shards", world.shards, "--out", tmp_path, "--each", 1, "--frames", 24
    )
    assert said.status == 0, said.err
    assert "made with --each 1; leave --each out" in fails(base + " --each 2", out=tmp_path)
    assert "data.frames of" in fails(base + " --checkpoint {run}", out=tmp_path)
    assert "no frame shards" in fails("viubench --shards {new} --out {new}")
    assert "do not divide" in fails(base + " --frames 30", out=tmp_path / "new")
    asked = "eval --benchmark viubench --annotations {path} --checkpoint {run} --videos {out}"
    path = tmp_path / "questions.json"
    assert "ask by tgvlm viubench" in fails(asked, out=tmp_path, path=path)


def test_held_out_pretext_tasks_are_scored_by_their_rewards(world, config, tgvlm, tmp_path):
    tasks = "--config.data.tasks=('grounding','counting','jigsaw')"
    said = tgvlm("eval", *config, tasks, "--checkpoint", world.run, "--workdir", tmp_path)
    assert said.status == 0, said.err
    figures = json.loads((tmp_path / "metrics.json").read_text())
    assert list(figures["tasks"]) == ["grounding", "counting", "jigsaw"]
    assert figures["tasks"]["counting"]["questions"] == 2
    assert "blind: constant" in said.out
    assert "counting/easy" in (tmp_path / "report.html").read_text()
    answers = (tmp_path / "answers.jsonl").read_text().splitlines()
    assert len(answers) == 6
    assert json.loads(answers[2])["kind"] == "jigsaw/6"
