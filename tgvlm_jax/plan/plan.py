"""Does a run fit a slice of a TPU pod, and how fast can it be? Asked of the compiler (design D8).

Compiled programs are looked up by what they are made of (`store.py`), so that a second call answers
at once.
"""

import dataclasses
from collections.abc import Callable

import jax

from tgvlm_jax.plan import store
from tgvlm_jax.plan.compiled import Compiled, compile_program
from tgvlm_jax.plan.cost import Cost
from tgvlm_jax.plan.programs import Program, programs
from tgvlm_jax.plan.roofline import Time, estimate
from tgvlm_jax.plan.topology import Topology
from tgvlm_jax.schema import Experiment
from tgvlm_jax.train.abstract import Sizes

GIB = 2**30
Told = Callable[[str], None]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Step:
    """One program on one chip, in bytes and seconds.

    Attributes:
        name, about: as in `Program`. fits: whether the compiler agreed, and all else has room.
        held: arguments by kind, as shapes have it. beside: what else lies there meanwhile.
        peak: the most at any moment, `beside` included; what is needed where it does not fit.
        found: what the compiler made of it. time: None on chips that the table does not know.
        tokens: that a run generates, an answer.
        model_flops: that the model needs, a chip; 0 where nobody counts them.
    """

    name: str
    about: str
    fits: bool
    held: dict[str, float]
    beside: dict[str, float]
    peak: float
    found: Compiled
    time: Time | None
    tokens: int = 0
    model_flops: float = 0.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """The programs of a run on a topology.

    Attributes:
        available: bytes of a chip that a program may use; 0 if unknown.
        mesh: sizes by axis. versions: of what compiled.
    """

    config: str
    topology: str
    kind: str
    chips: int
    available: float
    mesh: dict[str, int]
    versions: dict[str, str]
    sizes: Sizes
    steps: tuple[Step, ...]

    @property
    def fits(self) -> bool:
        """Whether all of its programs do."""
        return all(step.fits for step in self.steps)


def plan(
    experiment: Experiment,
    topology: Topology,
    *,
    sizes: Sizes,
    steps: tuple[str, ...],
    tell: Told = lambda _: None,
) -> Plan:
    """Compiles the programs of an experiment, or looks up what was found of them before.

    Args:
        sizes: of the longest batch. steps: which programs, of `programs.STEPS`.
        tell: is called with a line when a compile begins.

    Raises:
        InputError: the mesh does not fit the topology, or parts of the config each other.
    """
    found = programs(experiment, topology, sizes=sizes, steps=steps)
    chip = topology.chip
    available = chip.usable * GIB if chip else 0.0
    versions = {"jax": jax.__version__, "compiler": topology.compiler}
    made = []
    for program in found:
        key = store.key(experiment, topology, sizes=sizes, step=program.name, versions=versions)
        compiled = store.load(key)
        if compiled is None:
            tell(f"compiling {program.name} of {experiment.name} for {topology.name} ...")
            compiled = compile_program(program, topology)
            store.save(key, compiled)
        made.append(_step(program, compiled, topology, available))
    return Plan(
        config=experiment.name,
        topology=topology.name,
        kind=topology.kind,
        chips=found[0].mesh.size,
        available=available,
        mesh=dict(found[0].mesh.shape),
        versions=versions,
        sizes=sizes,
        steps=tuple(made),
    )


def _step(program: Program, found: Compiled, topology: Topology, available: float) -> Step:
    peak = found.needed + sum(program.beside.values())
    fits = found.memory is not None and (not available or peak <= available)
    return Step(
        name=program.name,
        about=program.about,
        fits=fits,
        held=program.held,
        beside=program.beside,
        peak=peak,
        found=found,
        time=_time(found.cost, program, topology),
        tokens=program.tokens,
        model_flops=program.model_flops / program.mesh.size,
    )


def _time(cost: Cost | None, program: Program, topology: Topology) -> Time | None:
    chip = topology.chip
    if cost is None or chip is None:
        return None
    slices = next(iter(program.mesh.shape))
    return estimate(cost, chip, kind=topology.kind, between=slices)
