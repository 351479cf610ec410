"""Does a step fit a slice of a TPU pod? Found out by compiling it, without the slice (design D8).

libtpu (extra `plan`) compiles for chips that are not there. What is compiled is the real step of an
experiment, on its mesh, with arrays that have a shape and no content; so it needs little memory
here, and an answer on what every chip holds is exact.
"""

import dataclasses
import importlib.util
import os
import re
import time
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from tgvlm_jax import mesh as mesh_lib
from tgvlm_jax.data.patch_videos import visual_rows
from tgvlm_jax.models import parameters
from tgvlm_jax.schema import Experiment, GrpoConfig
from tgvlm_jax.train import optim, state
from tgvlm_jax.train.abstract import Sizes, abstract_batch
from tgvlm_jax.train.step import make_step
from tgvlm_jax.types import InputError

GIB = 2**30
# HBM that a program may use, of each kind of chip, in GiB.
_MEMORY = {"TPU v5 lite": 15.75, "TPU v5": 95.74, "TPU v6 lite": 31.25, "TPU v4": 31.25}
_ENVIRONMENT = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_ACCELERATOR_TYPE": "v5litepod-16",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}
_TOO_LARGE = re.compile(r"[Uu]sed ([\d.]+)([GM]) of ([\d.]+)([GM]) hbm")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """What every chip holds while a step runs, in bytes.

    Attributes:
        chips: how many. kind: of chip. available: bytes that a program may use.
        state: parameters, optimiser, a copy for reference. batch: what it is fed. scratch: all
            else at its worst.
        peak: the most at any moment; larger than `available` where it does not fit.
        fits: whether the compiler agreed. seconds: that compiling took.
    """

    chips: int
    kind: str
    available: float
    state: float
    batch: float
    scratch: float
    peak: float
    fits: bool
    seconds: float


def plan(experiment: Experiment, topology: str, *, sizes: Sizes) -> Plan:
    """Compiles the training step of an experiment for a topology such as "v5e:4x4".

    Raises:
        InputError: libtpu is not installed, it knows no such topology, or the mesh does not fit.
    """
    devices = _devices(topology)
    mesh = mesh_lib.make(experiment.mesh, devices)
    micro = experiment.data.batch_size // experiment.train.accumulate
    data = dataclasses.replace(experiment.data, frames=(sizes.frames,))
    frames = visual_rows(experiment.model, data)
    mesh_lib.check(experiment.model, mesh, batch_size=micro, frames=frames)
    mesh = mesh or _single(devices)
    began = time.monotonic()
    with mesh_lib.use(mesh):
        blueprint = parameters.blueprint(experiment.model)
        shapes = jax.eval_shape(lambda: parameters.init(experiment.model, jax.random.key(0)))
        steps = experiment.train.steps
        tx = optim.build(experiment.optim, shapes, matrices=blueprint.matrices, steps=steps)
        current = jax.eval_shape(lambda: state.create(experiment, tx))
        current = jax.tree.map(lambda x: _placed(x, mesh), current)
        batch = abstract_batch(experiment, sizes, mesh=mesh)
        lowered = make_step(blueprint, tx, experiment).lower(current, batch)
        copy = _bytes(current.params) if _keeps_copy(experiment) else 0.0
        held = {"state": _bytes(current) + copy, "batch": _bytes(batch)}
        kind = devices[0].device_kind
        about = {
            "chips": mesh.size,
            "kind": kind,
            "available": _MEMORY.get(kind, 0.0) * GIB,
            **held,
        }
        try:
            memory: Any = lowered.compile().memory_analysis()
        except jax.errors.JaxRuntimeError as error:
            found = _TOO_LARGE.search(str(error))
            if not found:
                raise
            peak = float(found[1]) * (GIB if found[2] == "G" else 2**20) + copy
            more = {"scratch": peak - sum(held.values()), "peak": peak, "fits": False}
            return Plan(**about, **more, seconds=time.monotonic() - began)
    peak = float(memory.peak_memory_in_bytes) + copy
    fits = not about["available"] or peak <= about["available"]
    more = {"scratch": float(memory.temp_size_in_bytes), "peak": peak, "fits": fits}
    return Plan(**about, **more, seconds=time.monotonic() - began)


def _keeps_copy(experiment: Experiment) -> bool:
    """Whether a frozen copy of the parameters lies beside those that are trained."""
    config = experiment.objective
    return isinstance(config, GrpoConfig) and config.reference == "copy"


def _devices(topology: str) -> list[Any]:
    if importlib.util.find_spec("libtpu") is None:
        raise InputError("libtpu is not installed, which compiles for TPUs: pip install '.[plan]'")
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    from jax.experimental import topologies

    # Of v4 and before, a chip counts as one device only when asked for.
    options = {"chip_config_name": "megacore"} if topology.startswith("v4") else {}
    try:
        found = topologies.get_topology_desc(platform="tpu", topology_name=topology, **options)
    except Exception as error:  # whatever the compiler's library raises about a name
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"--topology {topology}: {first}; give such as v5e:4x4") from error
    return list(found.devices)


def _single(devices: list[Any]) -> Mesh:
    """A mesh of one device, so that what is compiled is compiled for it."""
    kinds = (jax.sharding.AxisType.Explicit,) * len(mesh_lib.AXES)
    chosen = np.asarray(devices[:1]).reshape((1,) * len(mesh_lib.AXES))
    return Mesh(chosen, mesh_lib.AXES, axis_types=kinds)


def _placed(x: Any, mesh: Mesh) -> jax.ShapeDtypeStruct:
    """The same on the mesh; a value without a layout lies on every chip."""
    spec = getattr(x.sharding, "spec", None) or PartitionSpec()
    return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=NamedSharding(mesh, spec))


def _bytes(tree: Any) -> float:
    """What one chip holds of a tree."""
    total = 0
    for leaf in jax.tree.leaves(tree):
        shape = leaf.sharding.shard_shape(leaf.shape)
        total += int(np.prod(shape)) * (
            leaf.dtype.itemsize if leaf.dtype != jax.dtypes.prng_key else 8
        )
    return float(total)
