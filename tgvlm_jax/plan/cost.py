"""What one run of a program costs a chip, counted from its optimised HLO.

The compiler's own totals count the body of a loop once, and a kernel not at all. Here a loop counts
as often as it runs (`loops.py`), kernels count what they say that they cost, and collectives are
told by kind and mesh axis (`collectives.py`).

Counted as FLOPs are matrix products and convolutions, two for each multiplication and addition,
and what kernels say. Counted as traffic of the main memory is what every instruction reads and
writes there: of arrays that are sliced or updated in place only the part, and nothing of what lies
in the chip's own memory.
"""

import dataclasses
import functools
import json
import math
import re
from collections.abc import Iterable, Mapping

from tgvlm_jax.plan import collectives
from tgvlm_jax.plan.flops import product
from tgvlm_jax.plan.hlo import Computation, Instruction, Module
from tgvlm_jax.plan.loops import trips
from tgvlm_jax.plan.traffic import traffic

KERNELS = ("tpu_custom_call", "__gpu$xla.gpu.triton", "mosaic_gpu", "mosaic_gpu_v2")
_BEGINS = "AsyncCollectiveStart"
_INLINE = ("fusion", "call", "async-start", "custom-call")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Kernel:
    """A kernel of ours or of a library's: how often it runs, and FLOPs if it says them."""

    runs: float
    flops: float | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Loop:
    """A loop of the program's outermost level: runs of its body, and what one of them costs."""

    name: str
    trips: int
    body: "Cost"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cost:
    """Of one run, for one chip.

    Attributes:
        flops: see above. bytes: read from and written to the main memory.
        cycles: the compiler's own estimate for all that is not a kernel or a collective; 0 where
            it does not tell.
        wire: bytes sent, by (kind of collective, mesh axes). runs: how often, by the same.
        kernels: by name.
        uncounted: loops that do not count; their bodies are taken once.
        loops: of the outermost level.
    """

    flops: float = 0.0
    bytes: float = 0.0
    cycles: float = 0.0
    wire: Mapping[tuple[str, str], float] = dataclasses.field(default_factory=dict)
    runs: Mapping[tuple[str, str], float] = dataclasses.field(default_factory=dict)
    kernels: Mapping[str, Kernel] = dataclasses.field(default_factory=dict)
    uncounted: tuple[str, ...] = ()
    loops: tuple[Loop, ...] = ()


def count(module: Module, *, mesh: Mapping[str, int]) -> Cost:
    """Costs of a module; `mesh` are the sizes of the mesh by axis, slices first."""
    return _Counter(module, mesh).scope(module.entry)


class _Counter:
    def __init__(self, module: Module, mesh: Mapping[str, int]):
        self.module, self.mesh = module, mesh

    @functools.cached_property
    def started(self) -> dict[str, set[str]]:
        """By channel, the computations that begin a collective which others go on with."""
        found: dict[str, set[str]] = {}
        for at in self.module.computations.values():
            if any(one.text("custom_call_target") == _BEGINS for one in at.instructions):
                for one in at.instructions:
                    if (read := self._collective(at, one)) is not None:
                        found.setdefault(read.channel, set()).add(at.name)
        return found

    def _collective(self, at: Computation, one: Instruction) -> collectives.Collective | None:
        return collectives.read(at, one, mesh=self.mesh, partitions=self.module.partitions)

    def scope(self, name: str) -> Cost:
        """One run of what a loop, a branch or the program does."""
        seen: set[tuple[str, str]] = set()
        return self._sum(self.module.computations[name], seen, inside=False)

    def _sum(self, at: Computation, seen: set[tuple[str, str]], *, inside: bool) -> Cost:
        """`inside` a fusion nothing touches the main memory but the fusion itself."""
        parts = []
        for one in at.instructions:
            parts += self._parts(at, one, seen, inside=inside)
        return total(parts)

    def _parts(
        self, at: Computation, one: Instruction, seen: set[tuple[str, str]], *, inside: bool
    ) -> list[Cost]:
        if one.op == "while":
            return self._loop(at, one)
        if one.op == "conditional":
            names = one.called("branch_computations", "true_computation", "false_computation")
            return [max((self.scope(name) for name in names), key=lambda cost: cost.flops)]
        parts = [self._own(at, one, seen, inside=inside)]
        if one.op in _INLINE:
            names = one.called("calls", "to_apply", "called_computations")
            inner = inside or one.op == "fusion"
            known = self.module.computations
            parts += [self._sum(known[name], seen, inside=inner) for name in names if name in known]
        return parts

    def _loop(self, at: Computation, one: Instruction) -> list[Cost]:
        found = trips(self.module, at, one)
        each = total([self.scope(name) for name in one.called("body", "condition")])
        count = 1 if found is None else found
        whole = times(each, count)
        uncounted = (*whole.uncounted, *(() if found is not None else (one.name,)))
        loop = Loop(name=one.text("op_name") or one.name, trips=count, body=each)
        return [dataclasses.replace(whole, uncounted=uncounted, loops=(loop,))]

    def _own(
        self, at: Computation, one: Instruction, seen: set[tuple[str, str]], *, inside: bool
    ) -> Cost:
        """What an instruction costs beside what it calls."""
        found = self._collective(at, one)
        if found is not None and at.name not in self.started.get(found.channel, {at.name}):
            found = None  # goes on beside other work, be it in a loop
        wire, runs = {}, {}
        if found is not None and (found.kind, found.channel) not in seen:
            # A collective that runs beside other work stands in every piece of that work.
            seen |= {(found.kind, found.channel)} if found.channel else set()
            wire, runs = {(found.kind, found.axes): found.bytes}, {(found.kind, found.axes): 1.0}
        kernels = _kernel(one)
        cycles = one.text("estimated_cycles")
        return Cost(
            flops=product(at, one) + sum(kernel.flops or 0.0 for kernel in kernels.values()),
            bytes=0.0 if inside else traffic(self.module, at, one),
            cycles=float(cycles) if cycles and cycles.isdigit() else 0.0,
            wire=wire,
            runs=runs,
            kernels=kernels,
        )


def total(parts: Iterable[Cost]) -> Cost:
    """One after another; the outermost loops stay apart."""
    parts = list(parts)
    wire, runs, kernels = {}, {}, {}
    for part in parts:
        for key, size in part.wire.items():
            wire[key] = wire.get(key, 0.0) + size
        for key, number in part.runs.items():
            runs[key] = runs.get(key, 0.0) + number
        for name, kernel in part.kernels.items():
            before = kernels.get(name)
            kernels[name] = kernel if before is None else _both(before, kernel)
    return Cost(
        flops=sum(part.flops for part in parts),
        bytes=sum(part.bytes for part in parts),
        cycles=sum(part.cycles for part in parts),
        wire=wire,
        runs=runs,
        kernels=kernels,
        uncounted=tuple(name for part in parts for name in part.uncounted),
        loops=tuple(loop for part in parts for loop in part.loops),
    )


def times(cost: Cost, number: float) -> Cost:
    """So often; what is inside a loop is not of the outermost level."""
    return Cost(
        flops=cost.flops * number,
        bytes=cost.bytes * number,
        cycles=cost.cycles * number,
        wire={key: size * number for key, size in cost.wire.items()},
        runs={key: runs * number for key, runs in cost.runs.items()},
        kernels={
            name: Kernel(
                runs=kernel.runs * number,
                flops=None if kernel.flops is None else kernel.flops * number,
            )
            for name, kernel in cost.kernels.items()
        },
        uncounted=cost.uncounted,
    )


def _both(one: Kernel, other: Kernel) -> Kernel:
    known = one.flops is not None and other.flops is not None
    return Kernel(
        runs=one.runs + other.runs,
        flops=(one.flops or 0.0) + (other.flops or 0.0) if known else None,
    )


def _kernel(one: Instruction) -> dict[str, Kernel]:
    if one.op != "custom-call" or one.text("custom_call_target") not in KERNELS:
        return {}
    said = re.search(r'"?cost_estimate"?:\s*(\{[^}]*\})', one.attributes.replace("\\22", '"'))
    flops = float(json.loads(said[1]).get("flops", math.nan)) if said else math.nan
    name = re.sub(r"(\.(\d+|clone))+$", "", one.name)
    return {name: Kernel(runs=1.0, flops=None if math.isnan(flops) else flops)}
