"""What accelerators can do at most, as their makers publish it: the one table of chips.

Read by the MFU of a run (train/metrics.py) and by `tgvlm plan`. Numbers are those of one device as
JAX counts devices: half a chip of TPU7x, which has two, a whole chip of all others (of TPU v4 with
`chip_config_name="megacore"`, as every TPU VM has it).

Sources, read in November 2026:
    TPU: https://docs.cloud.google.com/tpu/docs/v4, /v5e, /v5p, /v6e, /tpu7x. Their "bidirectional
        ICI bandwidth" counts both directions; `links` is one of them, so half of it. v4's is that
        of https://jax-ml.github.io/scaling-book/tpus (six links of 50 GB/s), as is its `network`.
        v5e's and v6e's `network` is that of a pod over its 256 chips.
    `usable` of a TPU: what libtpu 0.0.51 says is available to a program that does not fit.
    NVIDIA: data sheets of H200, H100, A100, HGX B200 and L4 on https://www.nvidia.com; FLOP/s
        without sparsity. `memory` is what nvidia-smi lists. NVLink counts both directions there,
        too; `network` depends on the cluster, and a PCIe card may have no link.
"""

import dataclasses
from typing import Any


@dataclasses.dataclass(frozen=True, kw_only=True)
class Chip:
    """One kind of device.

    Attributes:
        flops: dense bfloat16 matrix products, FLOP/s.
        memory: GiB that the device has. usable: GiB of it that a program may use.
        bandwidth: of that memory, bytes/s.
        links: bytes/s that leave the device through all its links (ICI, NVLink) together.
        axes: of the torus that the links form; 1 where a switch connects all.
        network: bytes/s that leave the device's host for others (DCN), this device's share; 0 where
            it is not the chip's maker who decides.
    """

    flops: float
    memory: float
    usable: float
    bandwidth: float
    links: float
    axes: int
    network: float = 0.0


# By `device_kind`, of NVIDIA's by its beginning, where the longest that fits counts.
CHIPS = {
    "TPU v4": Chip(
        flops=275e12, memory=32, usable=30.75, bandwidth=1200e9, links=300e9, axes=3, network=6.25e9
    ),
    "TPU v5 lite": Chip(
        flops=197e12, memory=16, usable=15.75, bandwidth=819e9, links=200e9, axes=2, network=3.125e9
    ),
    "TPU v5": Chip(
        flops=459e12, memory=95, usable=95.73, bandwidth=2765e9, links=600e9, axes=3, network=6.25e9
    ),
    "TPU v6 lite": Chip(
        flops=918e12, memory=32, usable=31.24, bandwidth=1638e9, links=400e9, axes=2, network=12.5e9
    ),
    "TPU7x": Chip(
        flops=1153.5e12,
        memory=96,
        usable=94.74,
        bandwidth=3690e9,
        links=300e9,
        axes=3,
        network=6.25e9,
    ),
    "NVIDIA A100": Chip(flops=312e12, memory=80, usable=80, bandwidth=2039e9, links=300e9, axes=1),
    "NVIDIA A100-SXM4-40GB": Chip(
        flops=312e12, memory=40, usable=40, bandwidth=1555e9, links=300e9, axes=1
    ),
    "NVIDIA H100": Chip(
        flops=989e12, memory=79.6, usable=79.6, bandwidth=3350e9, links=450e9, axes=1
    ),
    "NVIDIA H100 PCIe": Chip(
        flops=756e12, memory=79.6, usable=79.6, bandwidth=2000e9, links=0.0, axes=1
    ),
    "NVIDIA H200": Chip(
        flops=989e12, memory=140.4, usable=140.4, bandwidth=4800e9, links=450e9, axes=1
    ),
    "NVIDIA B200": Chip(
        flops=2250e12, memory=179, usable=179, bandwidth=7700e9, links=900e9, axes=1
    ),
    "NVIDIA L4": Chip(flops=121e12, memory=22.5, usable=22.5, bandwidth=300e9, links=0.0, axes=1),
}


_ALSO = {"TPU v5e": "TPU v5 lite", "TPU v5p": "TPU v5", "TPU v6e": "TPU v6 lite"}


def find(kind: str) -> Chip | None:
    """The chip of a `device_kind` such as "TPU v5 lite" or "NVIDIA H200"; None if it is unknown."""
    if kind.startswith("TPU"):  # "TPU v4 lite" is no "TPU v4"
        return CHIPS.get(_ALSO.get(kind, kind))
    # Cards have a suffix, and "NVIDIA L4" is no "NVIDIA L40S".
    known = [name for name in CHIPS if f"{kind} ".startswith((f"{name} ", f"{name}-"))]
    return CHIPS[max(known, key=len)] if known else None


def of(device: Any) -> Chip | None:
    """The chip of a device, or of one that is only described; None if it is unknown (a CPU)."""
    return find(device.device_kind)
