"""FLOPs of one product: matrix products and convolutions, as each compiler writes them.

A TPU compiler writes matrix products as convolutions, with summed axes in their windows; libraries
for GPUs are called by name.
"""

import math
import re

import numpy as np

from tgvlm_jax.plan.hlo import Computation, Instruction

_LABELS = re.compile(r"dim_labels=(\w+)_(\w+)->(\w+)")
_CUBLAS = ("__cublas$gemm", "__cublas$lt$matmul", "__cublas$lt$matmul$f8")


def product(at: Computation, one: Instruction) -> float:
    """Two for each multiplication and addition; 0 for any other instruction."""
    if one.op == "dot":
        contracted = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", one.attributes)
        return _dot(at, one, contracted[1] if contracted else "")
    if one.op == "convolution":
        return _convolution(at, one)
    if one.op != "custom-call":
        return 0.0
    target = one.text("custom_call_target") or ""
    if target in _CUBLAS:
        contracted = re.search(r'"lhs_contracting_dimensions":\[([^\]]*)\]', one.attributes)
        return _dot(at, one, contracted[1].replace('"', "") if contracted else "")
    if target.startswith("__cudnn$conv"):
        return _convolution(at, one)
    return 0.0


def _dot(at: Computation, one: Instruction, contracted: str) -> float:
    left = at.operand(one, 0)
    if left is None:
        return 0.0
    sizes = left.shapes[0].sizes
    summed = math.prod(sizes[int(axis)] for axis in contracted.split(",") if axis)
    return 2.0 * math.prod(one.shapes[0].sizes) * summed


def _convolution(at: Computation, one: Instruction) -> float:
    """As many products as hit an input: no padding, and no hole of a dilated one."""
    left, right = at.operand(one, 0), at.operand(one, 1)
    labels = _LABELS.search(one.attributes)
    if left is None or right is None or labels is None:
        return 0.0
    x, out = left.shapes[0].sizes, one.shapes[0].sizes
    of_x, _, of_out = labels.groups()
    spatial = [name for name in of_x if name.isdigit()]
    window = _window(one.attributes, len(spatial))
    hits = math.prod(
        _hits(x[of_x.index(name)], out[of_out.index(name)], window[number])
        for number, name in enumerate(spatial)
    )
    groups = one.number("feature_group_count") or 1
    parts = one.number("batch_group_count") or 1
    features, batch = x[of_x.index("f")] // groups, x[of_x.index("b")] // parts
    return 2.0 * features * batch * out[of_out.index("f")] * hits


def _window(attributes: str, axes: int) -> list[dict[str, int]]:
    """Size, stride, padding before, dilation of input and window, by axis."""
    found = re.search(r"window=\{([^}]*)\}", attributes)
    fields = dict(part.split("=", 1) for part in found[1].split()) if found else {}

    def each(name: str, default: int) -> list[int]:
        values = fields[name].split("x") if name in fields else [str(default)] * axes
        return [int(value.split("_")[0]) for value in values]

    names = {"size": 1, "stride": 1, "pad": 0, "lhs_dilate": 1, "rhs_dilate": 1}
    columns = {name: each(name, default) for name, default in names.items()}
    return [{name: values[axis] for name, values in columns.items()} for axis in range(axes)]


def _hits(size: int, out: int, window: dict[str, int]) -> int:
    """Pairs of an output's place and a window's that meet an input's."""
    simple = window["size"] == 1 and window["lhs_dilate"] == 1 and window["pad"] == 0
    if simple:
        return out
    places = np.arange(out)[:, None] * window["stride"]
    places = places + np.arange(window["size"]) * window["rhs_dilate"] - window["pad"]
    dilation = window["lhs_dilate"]
    inside = (places >= 0) & (places <= (size - 1) * dilation) & (places % dilation == 0)
    return int(inside.sum())
