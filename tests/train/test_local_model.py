"""A model of ours that is asked in text alone: for a judge, or about anything."""

import dataclasses
import types

import jax
import numpy as np
import pytest

from tests.train.test_rollouts import moved
from tgvlm_jax.judges.judge import Case, ModelJudge
from tgvlm_jax.models import parameters
from tgvlm_jax.schema import JudgeConfig, presets
from tgvlm_jax.train import judging, local_model, loop
from tgvlm_jax.train.local_model import LocalModel
from tgvlm_jax.types import InputError


def test_it_answers_each_prompt_as_if_alone(experiment):
    model = LocalModel(experiment, moved(experiment), max_tokens=4)
    prompts = ["When?", "Why is the picture upside down for a while?", "When?"]
    together = model(prompts * 4)  # two batches
    assert [one.failure for one in together] == [""] * 12
    assert together[:3] == together[9:]
    assert [model([prompt])[0] for prompt in prompts] == together[:3]


def test_what_is_too_long_fails_alone(experiment, monkeypatch):
    """Of the other one only the prompt is made here: no patches, text alone."""
    data = dataclasses.replace(
        experiment.data, template="qwen2", prompt_tokens=96, instruction="process_brief"
    )
    one = dataclasses.replace(experiment, model=presets.QWEN2_5_VL_TINY, data=data)
    params = parameters.init(one.model, jax.random.key(0))
    seen = []

    def generate(params, prompt, **_):
        seen.append(prompt)
        return types.SimpleNamespace(tokens=prompt.tokens[:, :0])

    monkeypatch.setattr(local_model, "generate", generate)
    replies = LocalModel(one, params, max_tokens=2)(["When?", "When " * 200])
    assert not replies[0].failure
    (prompt,) = seen
    assert np.all(prompt.visual_index == -1)
    assert np.all(prompt.visual.frames == -1)
    assert "data.prompt_tokens=96" in replies[1].failure


def test_it_judges_from_its_folder(experiment, tmp_path):
    """Untrained, so that it has no verdict, and says so."""
    steps = dataclasses.replace(experiment.train, steps=1)
    loop.train(dataclasses.replace(experiment, train=steps), tmp_path / "run")
    config = JudgeConfig(kind="local", checkpoint=str(tmp_path / "run"), max_tokens=3)
    opened = judging.open_judge(config)
    assert isinstance(opened.judge, ModelJudge)
    (verdict,) = opened.judge([Case(question="q", answer="a", observation="o")])
    assert (verdict.sufficient, verdict.failure) == (False, "the reply has no verdict")
    opened.close()
    with pytest.raises(InputError, match="no such folder"):
        judging.open_judge(dataclasses.replace(config, checkpoint=str(tmp_path / "none")))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": "http", "url": "http://a/v1"}, r"needs judge\.url and judge\.model"),
        ({"kind": "local"}, r"needs judge\.checkpoint"),
        ({"timeout": 0.0}, "above 0"),
    ],
)
def test_settings_that_make_no_judge(changes, message):
    with pytest.raises(InputError, match=message):
        JudgeConfig(**changes)
