"""Video-MTR at the paper's numbers."""

import math
import pathlib

import pytest

from tgvlm_jax.config import freeze, load
from tgvlm_jax.models import parameters
from tgvlm_jax.schema import Experiment, ImitateConfig, presets

PATH = pathlib.Path(__file__).parents[2] / "configs" / "videomtr_ppo.py"


def experiment(arg=""):
    return freeze(load(f"{PATH}:{arg}" if arg else str(PATH)), Experiment)


def test_the_model_is_the_released_one_with_a_critic():
    one = experiment()
    assert one.model.tower == presets.QWEN2_5_VL_7B_VISION
    assert one.model.decoder == presets.QWEN2_5_7B
    shapes = parameters.blueprint(one.model).shapes
    own = sum(math.prod(x) for name, x in shapes.items() if not parameters.is_critic(name))
    critic = sum(math.prod(x) for name, x in shapes.items() if parameters.is_critic(name))
    assert own == 8_292_166_656
    assert critic == own + one.model.decoder.width


def test_the_papers_numbers():
    one = experiment()
    ppo, turns = one.objective, one.data.turns
    assert one.data.batch_size * ppo.num_generations == 32
    assert one.data.batch_size * ppo.num_generations // ppo.updates == 8
    assert (turns.first, turns.each, turns.turns, turns.pool) == (16, 8, 3, 64)
    assert (ppo.credit.estimator, ppo.credit.turn_gamma, ppo.credit.gamma) == ("bilevel", 0.95, 1)
    assert (ppo.sampling.temperature, ppo.sampling.top_p, ppo.max_tokens) == (0.7, 0.95, 512)
    assert (one.optim.lr, one.optim.groups[0].lr_scale, one.optim.clip) == (1e-6, 10, 1)
    assert (ppo.kl_reward, ppo.value_clip, ppo.policy.entropy) == (1e-3, 0.5, 1e-3)
    assert one.train.steps == 500


@pytest.mark.parametrize(("budget", "first"), [(32, 16), (64, 32), (80, 40)])
def test_budgets(budget, first):
    turns = experiment(f"budget={budget}").data.turns
    assert turns.first == first
    assert turns.first + 2 * turns.each == budget
    assert experiment(f"budget={budget},single").data.turns.first == budget


def test_variants():
    assert experiment("released").objective.credit.turn_gamma == 1
    grpo = experiment("grpo")
    assert grpo.model.critic is None
    assert grpo.objective.baseline == "group"
    assert isinstance(experiment("tiny,imitate").objective, ImitateConfig)
    several, one = (experiment(f"tiny{arg}").data.turns for arg in ("", ",single"))
    assert several.first + several.each == one.first
    assert one.hidden == several.first
