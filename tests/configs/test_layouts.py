"""Layouts by the name of a slice: all of them load, and divide models and batches."""

import dataclasses
import math
import pathlib

import jax
import pytest

from tgvlm_jax import mesh
from tgvlm_jax.config import freeze, load
from tgvlm_jax.data.patch_videos import visual_rows
from tgvlm_jax.schema import Experiment, GrpoConfig, PpoConfig
from tgvlm_jax.schema.layouts import LAYOUTS
from tgvlm_jax.types import InputError

CONFIGS = pathlib.Path(__file__).resolve().parent.parent.parent / "configs"
FILES = {
    "d2vlm": ("d2vlm_sft.py:", "d2vlm_fpo.py:"),
    "videop2r_sft": ("videop2r_sft.py:",),
    "videop2r_pagrpo": ("videop2r_pagrpo.py:",),
    "videossr": ("videossr_grpo.py:", "videossr_grpo.py:sft,"),
    "videomtr_ppo": ("videomtr_ppo.py:",),
    "videomtr_grpo": ("videomtr_ppo.py:grpo,",),
    "profvlm": ("profvlm_sft.py:",),
}


def experiment(arg):
    return freeze(load(str(CONFIGS / arg)), Experiment)


def chips(topology):
    return math.prod(map(int, topology.split(":")[1].split("x")))


@pytest.mark.parametrize(
    ("stage", "slices"), [(stage, name) for stage, known in LAYOUTS.items() for name in known]
)
def test_a_layout_divides_what_it_is_for(stage, slices):
    layout = LAYOUTS[stage][slices]
    for file in FILES[stage]:
        found = experiment(f"{file}mesh={slices}")
        assert (found.mesh, found.data.batch_size) == (layout.mesh, layout.batch_size)
        sizes = {name: getattr(found.mesh, name) for name in mesh.AXES}
        assert math.prod(sizes.values()) == chips(layout.topology) * sizes["dcn"]
        kinds = (jax.sharding.AxisType.Explicit,) * len(mesh.AXES)
        laid = jax.sharding.AbstractMesh(tuple(sizes.values()), mesh.AXES, axis_types=kinds)
        objective, rows = found.objective, found.data.batch_size
        updates = objective.updates if isinstance(objective, GrpoConfig | PpoConfig) else 1
        assert rows % (found.train.accumulate * updates) == 0
        parts = [rows // (found.train.accumulate * updates)]
        if isinstance(objective, GrpoConfig):
            parts.append(objective.rollout_size or rows)
        for part in parts:
            frames = visual_rows(found.model, found.data)
            mesh.check(found.model, laid, batch_size=part, frames=frames, data=found.data)


def test_several_slices_have_a_batch_each():
    one, two = (experiment(f"videossr_grpo.py:mesh={name}") for name in ("v5p-64", "2*v5p-64"))
    assert two.mesh == dataclasses.replace(one.mesh, dcn=2)
    assert two.data.batch_size == 2 * one.data.batch_size
    assert two.objective.rollout_size == 2 * one.objective.rollout_size


def test_numbers_that_are_given_count():
    assert experiment("videop2r_pagrpo.py:").data.batch_size == 7
    assert experiment("videop2r_pagrpo.py:mesh=v5p-64").data.batch_size == 8
    assert experiment("videop2r_pagrpo.py:mesh=v5p-64,prompts=16").data.batch_size == 16
    sft = experiment("videop2r_sft.py:mesh=v5e-256")
    assert sft.train.steps == 162_062 // sft.data.batch_size


def test_an_unknown_slice_is_one_line():
    for name in ("v5e-255", "0*v5e-256", "two*v5e-256"):
        with pytest.raises(InputError, match=r"mesh='.*'; did you mean 'v5e-256'\?"):
            experiment(f"videop2r_sft.py:mesh={name}")
