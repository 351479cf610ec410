"""The largest micro-batch, and what to change: rules without a compile."""

import dataclasses

import pytest

from tests.plan.test_plan import experiment
from tgvlm_jax.plan import search
from tgvlm_jax.plan.compiled import Compiled
from tgvlm_jax.plan.plan import GIB, Plan, Step
from tgvlm_jax.schema import GrpoConfig
from tgvlm_jax.train.abstract import Sizes


@pytest.mark.parametrize("limit", [0, 1, 2, 3, 5, 8, 12])
@pytest.mark.parametrize("start", [1, 2, 4, 7])
def test_the_greatest_that_fits(limit, start):
    tried = []

    def fits(number):
        tried.append(number)
        return number <= limit

    assert search.greatest(fits, start) == limit
    assert len(tried) == len(set(tried))  # a compile takes minutes


def test_what_always_fits_ends():
    assert search.greatest(lambda number: True, 3, most=64) == 96


def test_micro_batches_of_another_size():
    config = experiment("videossr_grpo.py")
    other = search.with_micro(config, 32)
    assert other.data.batch_size // other.train.accumulate == 32
    assert isinstance(other.objective, GrpoConfig)
    assert other.objective.rollout_size == 0


def refused(name, *, held, peak, beside=0.0):
    step = Step(
        name=name,
        about="",
        fits=False,
        held={"parameters": held * GIB, "batch": GIB},
        beside={"reference": beside * GIB} if beside else {},
        peak=peak * GIB,
        found=Compiled(memory=None, needed=peak * GIB, cost=None, seconds=1.0),
        time=None,
    )
    return Plan(
        config="",
        topology="v5e:4x4",
        kind="TPU v5 lite",
        chips=16,
        available=15.75 * GIB,
        mesh={"dcn": 1, "fsdp": 16, "tp": 1, "cp": 1},
        versions={},
        sizes=Sizes(frames=8, question=8, answer=8),
        steps=(step,),
    )


def test_the_settings_that_help_are_named():
    config = experiment("videossr_grpo.py")
    (line,) = search.advice(config, refused("train", held=4, peak=20))
    assert line.startswith("train needs 20.0 GiB of 15.75: mesh.tp=2; or fewer data.frames")
    few = dataclasses.replace(config, train=dataclasses.replace(config.train, accumulate=1))
    (line,) = search.advice(few, refused("train", held=4, peak=20))
    assert "train.accumulate up to 4 (now 1)" in line
    plain = dataclasses.replace(few, model=dataclasses.replace(few.model, remat="none"))
    assert "model.remat='full'" in search.advice(plain, refused("train", held=4, peak=20))[0]
    wide = dataclasses.replace(
        config, objective=dataclasses.replace(config.objective, rollout_size=64)
    )
    (line,) = search.advice(wide, refused("decode", held=4, peak=20))
    assert "objective.rollout_size=32 (now 64)" in line


def test_what_no_setting_of_the_batch_helps_asks_for_chips():
    (line,) = search.advice(
        experiment("videossr_grpo.py"), refused("train", held=10, beside=6, peak=30)
    )
    assert "parameters and optimiser alone are 16.0 GiB: about 28 chips; or mesh.tp=2" in line
