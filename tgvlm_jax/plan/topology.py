"""Devices by name: TPU slices that are not there, fake CPU devices, or the GPUs that are.

v5e:4x4        one slice, by chip and shape       v4, v5e, v5p, v6e, tpu7x
2*v5e:16x16    two slices, joined by a network
cpu:8          eight devices of this process
gpu            those of this machine
"""

import contextlib
import dataclasses
import importlib.metadata
import importlib.util
import os
import re
from collections.abc import Iterator
from typing import Any

import jax

from tgvlm_jax.config import suggest
from tgvlm_jax.schema import MeshConfig
from tgvlm_jax.train import chips
from tgvlm_jax.train.chips import Chip
from tgvlm_jax.types import InputError

FAMILIES = ("v4", "v5e", "v5p", "v6e", "tpu7x")
_NAME = re.compile(r"(?:(\d+)\*)?([a-z]\w*):(\d+(?:x\d+){1,2})")
# libtpu asks the machine that it runs on what it is, unless it is told; the answer does not matter.
_ENVIRONMENT = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_ACCELERATOR_TYPE": "v5litepod-16",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TPU_MIN_LOG_LEVEL": "3",
    "TPU_STDERR_LOG_LEVEL": "3",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Topology:
    """Devices to compile for.

    Attributes:
        name: as it was given, with the number of slices before it where there are several.
        devices: in the order in which a mesh takes them, slice after slice.
        slices: of the devices, which are joined by a network.
        compiler: version of what compiles for them.
    """

    name: str
    devices: tuple[Any, ...]
    slices: int
    compiler: str

    @property
    def kind(self) -> str:
        """Of the devices, as JAX names it."""
        return self.devices[0].device_kind

    @property
    def chip(self) -> Chip | None:
        """What the table of chips knows about them; None for a CPU."""
        return chips.find(self.kind)


def find(name: str, *, slices: int = 0) -> Topology:
    """The topology of a name; `slices` may say how many there are, in the place of `N*`.

    Raises:
        InputError: a name that nobody knows, a shape that no such slice has, libtpu or a GPU that
            is not there.
    """
    if name == "gpu":
        return _gpus(slices)
    if name.startswith("cpu"):
        return _cpus(name, slices)
    found = _NAME.fullmatch(name)
    if found is None:
        near = suggest(re.split(r"[:\d*]", name.lstrip("0123456789*"))[0] or name, FAMILIES)
        raise InputError(
            f"--topology {name}: give a chip ({', '.join(FAMILIES)}) and a shape, such as v5e:4x4 "
            f"or 2*v5e:16x16; or cpu:8, or gpu{near}"
        )
    family, shape = found[2], found[3]
    if family not in FAMILIES:
        raise InputError(
            f"--topology {name}: no compiler for {family!r}{suggest(family, FAMILIES)}"
        )
    count = int(found[1] or 1)
    if slices and found[1] and slices != count:
        raise InputError(f"--topology {name} has {count} slices, --slices says {slices}")
    return _tpus(f"{family}:{shape}", slices or count)


def _tpus(name: str, slices: int) -> Topology:
    if importlib.util.find_spec("libtpu") is None:
        raise InputError("libtpu is not installed, which compiles for TPUs: pip install '.[plan]'")
    if slices < 1:
        raise InputError(f"--slices {slices}: give at least 1")
    for key, value in _ENVIRONMENT.items():
        os.environ.setdefault(key, value)
    from jax.experimental import topologies

    options: dict[str, Any] = {} if slices == 1 else {"num_slices": slices}
    if name.startswith("v4"):  # its chips count as one device each only when asked for
        options["chip_config_name"] = "megacore"
    try:
        with without_flags():
            found = topologies.get_topology_desc(platform="tpu", topology_name=name, **options)
    except Exception as error:  # whatever the compiler's library raises about a name
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"--topology {name}: {first}; give such as v5e:4x4") from error
    devices = sorted(found.devices, key=lambda one: getattr(one, "slice_index", 0) or 0)
    return Topology(
        name=name if slices == 1 else f"{slices}*{name}",
        devices=tuple(devices),
        slices=slices,
        compiler=f"libtpu {importlib.metadata.version('libtpu')}",
    )


@contextlib.contextmanager
def without_flags() -> Iterator[None]:
    """libtpu reads $XLA_FLAGS when it first needs them, and aborts at one that is not for TPUs."""
    flags = os.environ.pop("XLA_FLAGS", None)
    try:
        yield
    finally:
        if flags is not None:
            os.environ["XLA_FLAGS"] = flags


def _cpus(name: str, slices: int) -> Topology:
    count = name.partition(":")[2]
    if not count.isdigit() or not int(count) or name.partition(":")[0] != "cpu" or slices > 1:
        raise InputError(f"--topology {name}: give a number of CPU devices, such as cpu:8")
    with contextlib.suppress(RuntimeError):  # devices have been made already, and must be enough
        jax.config.update("jax_num_cpu_devices", int(count))
    devices = jax.devices("cpu")
    if len(devices) < int(count):
        raise InputError(f"--topology {name}: this process has {len(devices)} CPU devices")
    return Topology(name=name, devices=tuple(devices[: int(count)]), slices=1, compiler=_jaxlib())


def _gpus(slices: int) -> Topology:
    if slices > 1:
        raise InputError(f"--topology gpu: one machine, and not {slices}")
    try:
        devices = jax.devices("gpu")
    except RuntimeError as error:
        raise InputError(
            "--topology gpu: JAX sees no GPU here (pip install '.[cuda]', and unset JAX_PLATFORMS)"
        ) from error
    return Topology(name="gpu", devices=tuple(devices), slices=1, compiler=_jaxlib())


def _jaxlib() -> str:
    return f"jaxlib {importlib.metadata.version('jaxlib')}"


def mesh_config(config: MeshConfig, topology: Topology) -> MeshConfig:
    """The mesh of a config on a topology: slices are its `dcn` axis.

    Raises:
        InputError: the config says another number of slices.
    """
    if config.dcn in (1, -1, topology.slices):
        return dataclasses.replace(config, dcn=topology.slices)
    raise InputError(
        f"mesh.dcn={config.dcn}, but {topology.name} has {topology.slices} slices: set mesh.dcn=1 "
        f"or give --slices {config.dcn}"
    )
