"""The largest micro-batch that fits, found by compiling; and what to change where nothing does.

A refusal takes seconds, a success as long as any compile, so few are asked for: sizes are halved
between the largest that fitted and the smallest that did not.
"""

import dataclasses
import math
from collections.abc import Callable

from tgvlm_jax import mesh as mesh_lib
from tgvlm_jax.plan.plan import GIB, Plan, Step, Told, plan
from tgvlm_jax.plan.topology import Topology, mesh_config
from tgvlm_jax.schema import Experiment, GrpoConfig, PpoConfig
from tgvlm_jax.train.abstract import Sizes
from tgvlm_jax.types import InputError

_MOST = 64  # samples of a micro-batch for each chip that has some


@dataclasses.dataclass(frozen=True, kw_only=True)
class Found:
    """The largest micro-batch that fits.

    Attributes:
        micro: samples, or prompts, that are on the chips at a time; 0 where not even the smallest
            fits. each: of them on each chip that has some.
        accumulate: what `train.accumulate` is then, for the batch of the config; 0 where the batch
            is not a multiple.
        tried: the sizes that were compiled, and which of them fitted.
    """

    micro: int
    each: int
    accumulate: int
    tried: dict[int, bool]


def largest(
    experiment: Experiment, topology: Topology, *, sizes: Sizes, tell: Told = lambda _: None
) -> Found:
    """Searches the largest micro-batch of the training step.

    Raises:
        InputError: what `plan` raises; or devices whose memory nobody knows.
    """
    if topology.chip is None:
        raise InputError(f"--search: nobody knows how much memory {topology.kind} has")
    mesh = mesh_lib.make(mesh_config(experiment.mesh, topology), topology.devices)
    ways = 1 if mesh is None else mesh.shape["dcn"] * mesh.shape["fsdp"]
    updates = _updates(experiment)
    batch = experiment.data.batch_size // updates
    tried: dict[int, bool] = {}

    def fits(each: int) -> bool:
        """Whether a step in two micro-batches of so many samples a chip does."""
        if each not in tried:
            own = with_micro(experiment, each * ways)
            tell(f"trying {each * ways} at a time ...")
            tried[each] = plan(own, topology, sizes=sizes, steps=("train",), tell=tell).fits
        return tried[each]

    low = greatest(fits, max(1, batch // experiment.train.accumulate // ways))
    micro = low * ways
    whole = micro > 0 and batch % micro == 0
    return Found(
        micro=micro, each=low, accumulate=batch // micro if whole else 0, tried=dict(tried)
    )


def greatest(fits: Callable[[int], bool], start: int, *, most: int = _MOST) -> int:
    """The greatest number that fits, 0 for none, where whatever is less than one that fits does.

    From `start` on it doubles, to `most` or a little more, then halves between.
    """
    low, high = (start, None) if fits(start) else (0, start)
    while high is None and low < most:
        low, high = (2 * low, None) if fits(2 * low) else (low, 2 * low)
    while high is not None and high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def with_micro(experiment: Experiment, micro: int) -> Experiment:
    """The same with micro-batches of another size, two of them an update."""
    data = dataclasses.replace(experiment.data, batch_size=2 * micro * _updates(experiment))
    train = dataclasses.replace(experiment.train, accumulate=2)
    config = experiment.objective
    if isinstance(config, GrpoConfig):
        config = dataclasses.replace(config, rollout_size=0)
    return dataclasses.replace(experiment, data=data, train=train, objective=config)


def _updates(experiment: Experiment) -> int:
    config = experiment.objective
    return config.updates if isinstance(config, GrpoConfig | PpoConfig) else 1


def advice(experiment: Experiment, found: Plan) -> list[str]:
    """For each program that does not fit: what to change, the settings by name."""
    return [
        f"{step.name} needs {step.peak / GIB:.1f} GiB of {found.available / GIB:g}: "
        + "; or ".join(_changes(experiment, found, step))
        for step in found.steps
        if not step.fits
    ]


def _changes(experiment: Experiment, found: Plan, step: Step) -> list[str]:
    """Settings that make a program smaller, the gentlest first."""
    fixed = sum(step.held.values()) + sum(step.beside.values()) - step.held.get("batch", 0.0)
    ways = found.mesh["dcn"] * found.mesh["fsdp"]
    more = f"more chips (mesh.fsdp={found.mesh['fsdp']} now)"
    if fixed > 0.9 * found.available:
        need = math.ceil(fixed / (0.6 * found.available) * found.chips)
        lists = [f"parameters and optimiser alone are {fixed / GIB:.1f} GiB: about {need} chips"]
        return [*lists, f"mesh.tp={2 * found.mesh['tp']}", "model.param_dtype='bfloat16'"]
    changes, config = [], experiment.objective
    if step.name == "train":
        updates = _updates(experiment)
        micro = experiment.data.batch_size // (experiment.train.accumulate * updates)
        if micro > ways:
            most = experiment.data.batch_size // (updates * ways)
            changes.append(f"train.accumulate up to {most} (now {experiment.train.accumulate})")
        if experiment.data.pack > 1:
            changes.append(f"data.pack below {experiment.data.pack}")
        if experiment.model.remat != "full":
            changes.append("model.remat='full'")
    elif isinstance(config, GrpoConfig):
        rows = config.rollout_size or experiment.data.batch_size
        if rows > ways:
            changes.append(f"objective.rollout_size={max(ways, rows // 2)} (now {rows})")
    elif not isinstance(config, PpoConfig):
        changes.append(f"evaluation.batch_size below {experiment.evaluation.batch_size}")
    if found.mesh["tp"] == 1:
        changes.append("mesh.tp=2")
    return [*changes, "fewer data.frames or shorter answers", more]
