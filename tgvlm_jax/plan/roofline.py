"""The least time that a program can take on a chip, by what its parts are bound by.

Four things take time: products at the peak of the matrix unit, traffic of the main memory,
collectives on the links of a slice and between slices. If all of them overlap, the slowest counts;
if none do, their sum. Truth lies between, and above, for no unit runs at its peak all the time.
Nothing here has been calibrated on a real chip.

A collective along one mesh axis is taken to use one axis of the torus, in both directions.
"""

import dataclasses

from tgvlm_jax.plan.cost import Cost, times, total
from tgvlm_jax.train.chips import Chip

# Cycles a second that the compiler's own estimates are in, where they are known.
CLOCKS = {"TPU v5 lite": 1.5e9}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Time:
    """Seconds of one run.

    Attributes:
        compute, memory, links, network: of each alone, all else being free.
        overlapped: where all overlap within a loop, or between loops. serial: where nothing does.
        bound: the name of the slowest.
        compiler: the compiler's own estimate, of all but kernels and collectives; 0 if unknown.
    """

    compute: float
    memory: float
    links: float
    network: float
    overlapped: float
    serial: float
    bound: str
    compiler: float = 0.0


def estimate(cost: Cost, chip: Chip, *, kind: str, between: str) -> Time:
    """Time of a program on a chip; `between` is the mesh axis that joins slices."""
    whole = _each(cost, chip, between)
    looped = [times(loop.body, loop.trips) for loop in cost.loops]
    parts = [_each(part, chip, between) for part in (*looped, _rest(cost, looped))]
    clock = CLOCKS.get(kind)
    return Time(
        **whole,
        overlapped=sum(max(part.values()) for part in parts),
        serial=sum(whole.values()),
        bound=max(whole, key=lambda name: whole[name]),
        compiler=cost.cycles / clock if clock else 0.0,
    )


def _each(cost: Cost, chip: Chip, between: str) -> dict[str, float]:
    across = sum(size for (_, axes), size in cost.wire.items() if between in axes.split("+"))
    within = sum(cost.wire.values()) - across
    ring = chip.links / chip.axes
    return {
        "compute": cost.flops / chip.flops,
        "memory": cost.bytes / chip.bandwidth,
        "links": within / ring if ring else 0.0,
        "network": across / chip.network if chip.network else 0.0,
    }


def _rest(cost: Cost, looped: list[Cost]) -> Cost:
    """What is outside of the outermost loops."""
    inside = total(looped)
    wire = {key: max(size - inside.wire.get(key, 0.0), 0.0) for key, size in cost.wire.items()}
    return Cost(
        flops=max(cost.flops - inside.flops, 0.0),
        bytes=max(cost.bytes - inside.bytes, 0.0),
        wire=wire,
    )
