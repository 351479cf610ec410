"""What compilers made of programs, kept on disk: a compile takes minutes, a look-up nothing.

An entry is found by all that it follows from: the experiment, the topology, sizes, the versions of
jax and of the compiler, and the source of this package.
"""

import dataclasses
import functools
import hashlib
import json
import os
from pathlib import Path
from typing import Any

from tgvlm_jax import files
from tgvlm_jax.plan.compiled import Compiled, Memory
from tgvlm_jax.plan.cost import Cost, Kernel, Loop
from tgvlm_jax.plan.topology import Topology
from tgvlm_jax.schema import Experiment
from tgvlm_jax.train.abstract import Sizes
from tgvlm_jax.types import InputError

_PACKAGE = Path(__file__).resolve().parent.parent


def folder() -> Path:
    """Where entries lie: `$TGVLM_PLANS`, by default in the user's cache folder."""
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    return Path(os.environ.get("TGVLM_PLANS", cache / "tgvlm" / "plans"))


def key(
    experiment: Experiment,
    topology: Topology,
    *,
    sizes: Sizes,
    step: str,
    versions: dict[str, str],
) -> str:
    """The name of an entry."""
    parts = {
        "experiment": dataclasses.asdict(experiment),
        "topology": [topology.name, topology.kind, len(topology.devices)],
        "sizes": dataclasses.asdict(sizes),
        "step": step,
        "versions": versions,
        "source": source(),
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]


@functools.cache
def source() -> str:
    """A hash of the source of this package."""
    found = hashlib.sha256()
    for path in sorted(_PACKAGE.rglob("*.py")):
        found.update(str(path.relative_to(_PACKAGE)).encode() + path.read_bytes())
    return found.hexdigest()


def load(name: str) -> Compiled | None:
    """An entry; None if there is none, or it cannot be read."""
    try:
        return from_json(json.loads((folder() / f"{name}.json").read_text()))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def save(name: str, found: Compiled) -> None:
    """Keeps an entry; where it cannot be kept, the next call compiles again."""
    place = folder()
    try:
        place.mkdir(parents=True, exist_ok=True)
        with files.replacing(place / f"{name}.json") as path:
            path.write_text(json.dumps(to_json(found), indent=1))
    except (OSError, InputError):
        return


def to_json(found: Compiled) -> dict[str, Any]:
    """As JSON has it: `wire` is a list, for its keys are pairs."""
    told = dataclasses.asdict(found)
    told["cost"] = None if found.cost is None else _cost(found.cost)
    return told


def _cost(cost: Cost) -> dict[str, Any]:
    told = {name: getattr(cost, name) for name in ("flops", "bytes", "cycles", "uncounted")}
    told["wire"] = [
        {"kind": kind, "axes": axes, "bytes": size, "runs": cost.runs[kind, axes]}
        for (kind, axes), size in sorted(cost.wire.items(), key=lambda item: -item[1])
    ]
    told["kernels"] = {name: dataclasses.asdict(one) for name, one in cost.kernels.items()}
    told["loops"] = [
        {"name": one.name, "trips": one.trips, "body": _cost(one.body)} for one in cost.loops
    ]
    return told


def from_json(told: dict[str, Any]) -> Compiled:
    """The inverse of `to_json`."""
    memory, cost = told["memory"], told["cost"]
    return Compiled(
        memory=None if memory is None else Memory(**memory),
        needed=told["needed"],
        cost=None if cost is None else _from_cost(cost),
        seconds=told["seconds"],
    )


def _from_cost(told: dict[str, Any]) -> Cost:
    return Cost(
        flops=told["flops"],
        bytes=told["bytes"],
        cycles=told["cycles"],
        wire={(one["kind"], one["axes"]): one["bytes"] for one in told["wire"]},
        runs={(one["kind"], one["axes"]): one["runs"] for one in told["wire"]},
        kernels={name: Kernel(**one) for name, one in told["kernels"].items()},
        uncounted=tuple(told["uncounted"]),
        loops=tuple(
            Loop(name=one["name"], trips=one["trips"], body=_from_cost(one["body"]))
            for one in told["loops"]
        ),
    )
