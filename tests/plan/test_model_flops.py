"""FLOPs that a model needs beside those that its compiled step does."""

import pytest

from tests.plan.test_plan import experiment
from tgvlm_jax.plan import compiled, programs, topology
from tgvlm_jax.train.abstract import Sizes

SIZES = Sizes(frames=8, question=16, answer=16)
PLAIN = ("optim.name=adamw", "mesh.fsdp=1", "data.batch_size=4", "train.accumulate=1")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "overrides"),
    [
        ("d2vlm_sft.py:tiny", ("data.frames=(8,)",)),
        ("d2vlm_fpo.py:tiny", ("data.frames=(8,)",)),
        ("videossr_grpo.py:tiny", ()),
        ("videomtr_ppo.py:tiny", ("objective.updates=1",)),
        ("profvlm_sft.py:tiny", ()),
    ],
)
def test_most_of_what_a_step_does_is_for_the_model(name, overrides):
    """Nothing is computed twice in these; a mask cuts nothing off, and small products are left."""
    own = experiment(name, *PLAIN, "model.remat=none", *overrides)
    cpu = topology.find("cpu:1")
    (program,) = programs.programs(own, cpu, sizes=SIZES, steps=("train",))
    counted = compiled.compile_program(program, cpu).cost.flops
    assert 0.7 < program.model_flops / counted < 1.1
