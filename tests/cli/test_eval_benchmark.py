"""`tgvlm eval --benchmark NAME --checkpoint DIR`: a model answers about a real film."""

import dataclasses
import json

import numpy as np
import pytest

from tests.data.bad_videos import BIKES
from tgvlm_jax.cli import benchmark_answers, session
from tgvlm_jax.data.chat import EVIDENCE
from tgvlm_jax.evaluation.suite import Question

MOMENT = {
    "version": 1.0, "idx": 0, "task": "tvg", "source": "film", "video": BIKES.name,
    "duration": 10.0, "tgt": [2.0, 8.0], "q": "When is the picture upside down?",
}  # fmt: skip
CHOICE = MOMENT | {"task": "rar", "p": 1, "o": ["run", "jump", "sit", "fly"], "q": "What is it?"}
LOST = MOMENT | {"idx": 1, "video": "lost.mp4"}
SPLIT = MOMENT | {"idx": 2, "q": "When?"}
POINTING = MOMENT | {"idx": 3, "q": "And <evi>?", "src": [1.0, 2.0]}


@pytest.fixture
def asked(world, tmp_path):
    """The words of a run over some questions."""

    def words(*records, run=world.run):
        path = tmp_path / "et.json"
        path.write_text(json.dumps(records))
        return [
            "eval", "--benchmark", "etbench", "--annotations", path, "--videos", BIKES.parent,
            "--checkpoint", run, "--workdir", tmp_path / "out",
        ]  # fmt: skip

    return words


def test_answers_are_kept_and_a_stopped_run_goes_on(asked, tgvlm, tmp_path):
    words = asked(MOMENT, CHOICE, LOST, SPLIT, POINTING)
    said = tgvlm(*words)
    assert said.status == 0, said.err
    assert "2 questions left unanswered, see" in said.out
    path = tmp_path / "out" / "answers.jsonl"
    whole = path.read_text()
    lines = [json.loads(line) for line in whole.splitlines()]
    answers = {line["question"]: line["answer"] for line in lines}
    assert set(answers) == {"rar/film/0", "tvg/film/0", "tvg/film/2"}
    assert EVIDENCE not in "".join(answers.values())
    skipped = (tmp_path / "out" / "skipped.jsonl").read_text()
    assert "lost.mp4" in skipped
    assert "data.max_sources=0" in skipped
    figures = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert figures["questions"] == 5
    assert figures["unanswered"] == 2

    path.write_text("\n".join(whole.splitlines()[1:]) + "\n")  # as if it had stopped before
    (tmp_path / "out" / "skipped.jsonl").unlink()
    assert tgvlm(*words).status == 0
    assert sorted(path.read_text().splitlines()) == sorted(whole.splitlines())
    assert (tmp_path / "out" / "skipped.jsonl").read_text() == skipped  # tried again


def test_answers_of_another_model_do_not_mix(asked, world, tgvlm, tmp_path):
    assert tgvlm(*asked(MOMENT)).status == 0
    other = world.copy(tmp_path / "other").run
    said = tgvlm(*asked(MOMENT, run=other))
    assert said.status == 2
    assert f"has answers of {world.run}" in said.err


@pytest.mark.parametrize(
    ("records", "message"),
    [
        ([LOST], "no video of E.T. Bench could be read; the first: "),
        ([MOMENT | {"q": "When is <vid>?"}], "take the evi (or txt) flavour"),
        ([MOMENT | {"q": "<evi>", "src": [1, 2, 3]}], "record 0: 'src' has 3 numbers for 1 <evi>"),
    ],
)
def test_what_is_wrong_is_one_line(asked, tgvlm, tmp_path, records, message):
    said = tgvlm(*asked(*records))
    assert said.status == 2
    assert said.err.count("\n") == 1
    assert message in said.err
    assert not (tmp_path / "out" / "metrics.json").exists()


def test_a_run_with_an_instruction_is_asked_in_its_own_words(world):
    experiment = session.open_model(world.run).experiment
    data = dataclasses.replace(experiment.data, instruction="process_brief")
    question = Question(
        name="0", video=BIKES.name, text="Which? Letter only.", plain="Which?", kind="numerical"
    )
    for config, text in ((experiment.data, question.text), (data, question.plain)):
        one = dataclasses.replace(experiment, data=config)
        sample = benchmark_answers._sample(question, BIKES.parent, one)
        assert (sample.question, sample.kind) == (text, "numerical")


def test_videos_that_are_not_there(asked, fails, world):
    words = "eval --benchmark etbench --annotations {file} --checkpoint {run} --videos {new}"
    asked(MOMENT)
    assert fails(words, file=asked(MOMENT)[4]).endswith("no such folder")


def test_times_are_written_as_the_scorers_read_them():
    raw, mentions = "<evi><evi></evi>In <evi>, then <evi>.", [[3.0, 9.0], [14.2, 20.0]] * 2
    expected = "3 - 9 14 - 20 </evi>In 3 - 9 , then 14 - 20 ."
    assert benchmark_answers.written(raw, np.array(mentions)) == expected
