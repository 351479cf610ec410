"""How a published tensor becomes our parameters and back, as data.

A published tensor is cut along its first axis into parts (a fused qkv is three), and each part is
rearranged by an einops pattern such as `(h r k) d -> d h r k`. Patterns are read backwards to
write the tensor again, so a round trip is bit-equal. Layers are stacked in ours and numbered in
theirs: `{i}` in a name stands for the number, and the leading axis of ours is not in the pattern.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from einops import rearrange


@dataclasses.dataclass(frozen=True, kw_only=True)
class Part:
    """Rows of a published tensor and the parameter they become.

    Attributes:
        path: dotted path of our parameter.
        pattern: einops, theirs -> ours (ours without the stacked layer axis).
    """

    path: str
    pattern: str

    def sizes(self, shape: Sequence[int]) -> dict[str, int]:
        """Length of each named axis, from the shape of ours (without the layer axis)."""
        ours = self.pattern.split("->")[1].split()
        return dict(zip(ours, shape, strict=True))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tensor:
    """A published tensor: its name (`{i}` where layers are numbered) and its parts, in order."""

    name: str
    parts: tuple[Part, ...]


def tensor(name: str, path: str, pattern: str) -> Tensor:
    """A published tensor that is one parameter."""
    return Tensor(name=name, parts=(Part(path=path, pattern=pattern),))


Shapes = Mapping[str, tuple[int, ...]]


def to_ours(
    tensors: Sequence[Tensor], read: Callable[[str], np.ndarray], *, shapes: Shapes
) -> dict[str, np.ndarray]:
    """Our parameters from published tensors; `read` gives one by name.

    Meant for small models and tests: everything is in host memory at once.
    """
    ours: dict[str, list[np.ndarray]] = {}
    for entry in tensors:
        for name in numbered(entry, shapes):
            for part, rows in zip(entry.parts, _cut(entry, read(name), shapes), strict=True):
                one = rearrange(rows, part.pattern, **_known(part, shapes, entry))
                ours.setdefault(part.path, []).append(one)
    stacked = {part.path for entry in tensors if "{i}" in entry.name for part in entry.parts}
    return {path: np.stack(v) if path in stacked else v[0] for path, v in ours.items()}


def to_theirs(
    tensors: Sequence[Tensor], params: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """Published tensors from our parameters."""
    shapes = {path: tuple(value.shape) for path, value in params.items()}
    theirs = {}
    for entry in tensors:
        for number, name in enumerate(numbered(entry, shapes)):
            rows = []
            for part in entry.parts:
                value = params[part.path][number] if "{i}" in entry.name else params[part.path]
                left, right = part.pattern.split("->")
                rows.append(rearrange(np.asarray(value), f"{right} -> {left}"))
            theirs[name] = rows[0] if len(rows) == 1 else np.concatenate(rows)
    return theirs


def numbered(entry: Tensor, shapes: Shapes) -> list[str]:
    """The names an entry stands for: one, or one for each stacked layer."""
    if "{i}" not in entry.name:
        return [entry.name]
    return [entry.name.format(i=i) for i in range(shapes[entry.parts[0].path][0])]


def _known(part: Part, shapes: Shapes, entry: Tensor) -> dict[str, int]:
    shape = shapes[part.path][1:] if "{i}" in entry.name else shapes[part.path]
    return part.sizes(shape)


def _cut(entry: Tensor, value: np.ndarray, shapes: Shapes) -> list[np.ndarray]:
    """The parts' rows; each part's share follows from the axes its pattern has on the left."""
    if len(entry.parts) == 1:
        return [value]
    rows = []
    for part in entry.parts:
        first = part.pattern.split("->")[0].split(")")[0].strip(" (").split()
        first = first if part.pattern.strip().startswith("(") else first[:1]
        known = _known(part, shapes, entry)
        rows.append(int(np.prod([known[axis] for axis in first])))
    return np.split(value, np.cumsum(rows)[:-1])
