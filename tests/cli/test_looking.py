"""`tgvlm eval` of a model that looks again."""

import dataclasses
import json

import jax
import pytest

from tests.data.test_turn_prompts import DATA, VIT
from tests.train.conftest import BIKES
from tgvlm_jax.cli import looking_run, session
from tgvlm_jax.data.chat import open_chat
from tgvlm_jax.data.shard_writer import write_shards
from tgvlm_jax.models import parameters
from tgvlm_jax.schema import EvalConfig, Experiment, ImitateConfig


@pytest.fixture
def model(tmp_path):
    """Initial weights, over shards of one film."""
    write_shards([BIKES], tmp_path / "bikes", fps=8, height=24, width=32, workers=1)
    data = dataclasses.replace(
        DATA,
        shards=str(tmp_path / "bikes"),
        eval_span=(0.0, 1.0),
        turns=dataclasses.replace(DATA.turns, prompts="short", turns=2),
    )
    experiment = Experiment(
        model=VIT,
        data=data,
        objective=ImitateConfig(),
        evaluation=EvalConfig(samples=5, batch_size=4, max_tokens=6),
    )
    return session.Model(
        experiment=experiment,
        chat=open_chat(experiment.data, VIT),
        params=parameters.init(VIT, jax.random.key(0)),
    )


def test_figures_and_the_frames_that_were_looked_at(model, tmp_path, capsys):
    looking_run.run(model, tmp_path, about="a run")
    said = capsys.readouterr().out
    assert "right_looks" in said
    found = json.loads((tmp_path / "metrics.json").read_text())
    assert found["questions"] == 5
    assert found["scores"]["accuracy"] == 0  # random weights answer nothing
    assert found["scores"]["turns"] == 2
    page = (tmp_path / "report.html").read_text()
    assert page.count("<img") == 5 * 3  # the first look of each; no other is valid
    assert "which colour" in page.lower()
