"""A program compiled: what every chip holds while it runs, and what a run costs it."""

import contextlib
import dataclasses
import re
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
from jax.experimental.compilation_cache import compilation_cache

from tgvlm_jax import mesh as mesh_lib
from tgvlm_jax.plan import hlo
from tgvlm_jax.plan.cost import Cost, count
from tgvlm_jax.plan.programs import Program
from tgvlm_jax.plan.topology import Topology, without_flags

GIB = 2**30
_TOO_LARGE = re.compile(
    r"(?:[Uu]sed |HLO temporaries \(|required \()([\d.]+)([KMGT])(?: of|\) exceeds)"
)
_UNITS = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
# Of these the compiler prints an optimised program, with its estimates; of others a dump is read.
_PRINTED = ("TPU v5 lite",)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Memory:
    """Bytes that one chip holds, beside what lies there anyway.

    Attributes:
        arguments, outputs, temporaries, code: as the compiler reports them; of the outputs what
            takes no argument's place. peak: the most at any moment, all of those together.
    """

    arguments: float
    outputs: float
    temporaries: float
    code: float
    peak: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Compiled:
    """What the compiler made of a program.

    Attributes:
        memory: None where it refused. needed: bytes that it then said that it needs.
        cost: None where it refused. seconds: that it took.
    """

    memory: Memory | None
    needed: float
    cost: Cost | None
    seconds: float


def compile_program(program: Program, topology: Topology) -> Compiled:
    """Compiles a program for the chips of a topology.

    Raises what the compiler raises, but for a program that needs more memory than there is.
    """
    began = time.monotonic()
    temporary = tempfile.TemporaryDirectory(prefix="tgvlm_plan")
    tpu = topology.kind.startswith("TPU")
    alone = _alone() if tpu else contextlib.nullcontext()
    with mesh_lib.use(program.mesh), temporary as folder, alone:
        lowered = program.lower()
        dumps = tpu and topology.kind not in _PRINTED
        options: dict[str, Any] = {"xla_dump_to": folder, "xla_dump_hlo_as_text": True}
        try:
            made = lowered.compile(compiler_options=options if dumps else None)
        except jax.errors.JaxRuntimeError as error:
            asked = needed(str(error))
            if asked is None:
                raise
            seconds = time.monotonic() - began
            return Compiled(memory=None, needed=asked, cost=None, seconds=seconds)
        text = _dumped(Path(folder)) if dumps else made.as_text()
        cost = count(hlo.parse(text), mesh=dict(program.mesh.shape))
        memory = _memory(made.memory_analysis())
    seconds = time.monotonic() - began
    return Compiled(memory=memory, needed=memory.peak, cost=cost, seconds=seconds)


@contextlib.contextmanager
def _alone() -> Iterator[None]:
    """Without JAX's cache: it cannot read back what was compiled for devices that are not there."""
    before = jax.config.jax_enable_compilation_cache  # pyright: ignore
    jax.config.update("jax_enable_compilation_cache", False)
    compilation_cache.reset_cache()
    try:
        with without_flags():
            yield
    finally:
        jax.config.update("jax_enable_compilation_cache", before)
        compilation_cache.reset_cache()


def needed(error: str) -> float | None:
    """Bytes that a program was refused for; None where it was refused for something else."""
    found = _TOO_LARGE.search(error)
    return float(found[1]) * _UNITS[found[2]] if found else None


def _memory(told: Any) -> Memory:
    outputs = told.output_size_in_bytes - told.alias_size_in_bytes
    parts = (told.argument_size_in_bytes, outputs, told.temp_size_in_bytes)
    peak = getattr(told, "peak_memory_in_bytes", 0) or sum(parts)
    return Memory(
        arguments=float(parts[0]),
        outputs=float(parts[1]),
        temporaries=float(parts[2]),
        code=float(told.generated_code_size_in_bytes),
        peak=float(peak),
    )


def _dumped(folder: Path) -> str:
    """The optimised program among what the compiler wrote, the largest of its kind."""
    found = sorted(folder.glob("*after_optimizations.txt"), key=lambda one: one.stat().st_size)
    return found[-1].read_text()
