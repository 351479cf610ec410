"""How the experiments of `configs/` lie on TPU slices: the mesh, and batches that divide over it.

A config takes one by the slice's name, as in `configs/videop2r_pagrpo.py:mesh=v5e-256`, or of
several slices: `mesh=2*v5e-256`. They are named as Google names them: v5e by the number of chips,
v5p by that of cores, two a chip. Why each is as it is: docs/tpu.md, "How models are laid out".
"""

import dataclasses
from typing import Any, Literal

from tgvlm_jax.config import suggest, to_config_dict
from tgvlm_jax.schema.experiment import MeshConfig
from tgvlm_jax.types import InputError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Layout:
    """What of an experiment follows from the slice it runs on.

    Attributes:
        topology: of one slice, as `tgvlm plan` and gcloud name it.
        batch_size: samples, prompts or conversations a step. accumulate: micro-batches.
        rollout_size: prompts whose answers are sampled at a time, 0 for all.
        remat: of the model; where memory is left it saves time.
    """

    topology: str
    mesh: MeshConfig
    batch_size: int
    accumulate: int = 1
    rollout_size: int = 0
    remat: Literal["none", "full", "sums", "dots"] = "full"


# Weights are gathered once a step, and more than a layer's input is kept, where the longest batch
# leaves room for it (docs/tpu.md).
_V5E_256 = MeshConfig(fsdp=64, tp=4)
_V5P_64 = MeshConfig(fsdp=8, tp=4, gather="step")
_V5P_64_LONG = MeshConfig(fsdp=16, tp=2, gather="step")
_V5P_128 = MeshConfig(fsdp=16, tp=4, gather="step")
_V5P = {"v5p-64": "v5p:4x4x2", "v5p-128": "v5p:4x4x4"}


def _v5p(name: str, mesh: MeshConfig, batch_size: int, **more: int) -> Layout:
    """With 95 GiB of memory a chip: what linear maps make is kept."""
    return Layout(topology=_V5P[name], mesh=mesh, batch_size=batch_size, remat="dots", **more)


LAYOUTS: dict[str, dict[str, Layout]] = {
    "d2vlm": {
        "v5e-16": Layout(topology="v5e:4x4", mesh=MeshConfig(fsdp=16), batch_size=32, accumulate=2),
    },
    "videop2r_sft": {
        "v5e-256": Layout(topology="v5e:16x16", mesh=_V5E_256, batch_size=64),
        "v5p-64": _v5p("v5p-64", _V5P_64_LONG, 16),
        "v5p-128": _v5p("v5p-128", _V5P_128, 16),
    },
    "videop2r_pagrpo": {
        "v5e-256": Layout(topology="v5e:16x16", mesh=_V5E_256, batch_size=64, remat="sums"),
        "v5p-64": _v5p("v5p-64", _V5P_64, 8),
        "v5p-128": _v5p("v5p-128", _V5P_128, 16),
    },
    "videossr": {
        "v5e-256": Layout(topology="v5e:16x16", mesh=_V5E_256, batch_size=64, rollout_size=64),
        "v5p-64": _v5p("v5p-64", _V5P_64_LONG, 64, accumulate=4, rollout_size=16),
        "v5p-128": _v5p("v5p-128", _V5P_128, 64, accumulate=4, rollout_size=16),
    },
    # Four updates a step: a part of the batch each must divide over the chips.
    "videomtr_ppo": {
        "v5e-256": Layout(topology="v5e:16x16", mesh=_V5E_256, batch_size=256),
        "v5p-64": _v5p("v5p-64", _V5P_64, 32),
        "v5p-128": _v5p("v5p-128", _V5P_128, 64),
    },
    "videomtr_grpo": {
        "v5e-256": Layout(topology="v5e:16x16", mesh=_V5E_256, batch_size=64),
        "v5p-64": _v5p("v5p-64", _V5P_64, 16),
        "v5p-128": _v5p("v5p-128", _V5P_128, 16),
    },
    "profvlm": {
        "v5e-4": Layout(topology="v5e:2x2", mesh=MeshConfig(fsdp=4), batch_size=16, remat="none"),
    },
}


def find(stage: str, slices: str) -> Layout:
    """The layout of a stage on a slice or, as in "2*v5e-256", on several: each has its own batch.

    Raises:
        InputError: there is no layout of that name for the stage.
    """
    number, _, name = slices.rpartition("*")
    known = LAYOUTS[stage]
    if name not in known or not (number or "1").isdigit() or number == "0":
        raise InputError(f"config argument mesh={slices!r}{suggest(name, known)}")
    one, count = known[name], int(number or 1)
    return dataclasses.replace(
        one,
        mesh=dataclasses.replace(one.mesh, dcn=count),
        batch_size=count * one.batch_size,
        rollout_size=count * one.rollout_size,
    )


def lay_out(config: Any, stage: str, slices: str, *, batch: int = 0) -> None:
    """Sets mesh and batches of a ConfigDict; without a name of `slices` its mesh stays as it is.

    `batch`, if it is not 0, counts instead of what the layout, or the experiment, has.

    Raises:
        InputError: there is no layout of that name for the stage.
    """
    if slices:
        layout = find(stage, slices)
        config.mesh = to_config_dict(layout.mesh)
        config.data.batch_size = layout.batch_size
        config.train.accumulate = layout.accumulate
        config.model.remat = layout.remat
        if "rollout_size" in config.objective:
            config.objective.rollout_size = layout.rollout_size
    config.data.batch_size = batch or config.data.batch_size
