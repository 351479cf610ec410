"""How a published tensor becomes our parameters and back, as data.

A published tensor is cut along its first axis into parts (a fused qkv is three), and each part is
rearranged by an einops pattern such as `(h r k) d -> d h r k`. Patterns are read backwards to
write the tensor again, so a round trip is bit-equal. Layers are stacked in ours and numbered in
theirs: `{i}` in a name stands for the number, and the leading axis of ours is not in the pattern.
"""

import dataclasses
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
from einops import rearrange


@dataclasses.dataclass(frozen=True, kw_only=True)
class Part:
    """Rows of a published tensor and the parameter (or the piece of one) they become.

    Attributes:
        path: dotted path of our parameter.
        pattern: einops, theirs -> ours (ours without the stacked layer axis).
        piece: (axis, start, stop) where the rows are only that stretch of ours.
    """

    path: str
    pattern: str
    piece: tuple[str, int, int] | None = None

    def cut(self, shape: Sequence[int]) -> tuple[slice, ...]:
        """Where in ours (without the layer axis) the rows belong."""
        found = [slice(None)] * len(shape)
        if self.piece:
            axis, start, stop = self.piece
            found[self.pattern.split("->")[1].split().index(axis)] = slice(start, stop)
        return tuple(found)

    def sizes(self, shape: Sequence[int]) -> dict[str, int]:
        """Length of each named axis, from the shape of ours (without the layer axis)."""
        ours = self.pattern.split("->")[1].split()
        sizes = dict(zip(ours, shape, strict=True))
        if self.piece:
            axis, start, stop = self.piece
            sizes[axis] = stop - start
        return sizes

    def theirs(self, shape: Sequence[int]) -> tuple[int, ...]:
        """Shape of the published rows, from the shape of ours (without the layer axis)."""
        sizes = self.sizes(shape) | {"1": 1}
        axes = re.findall(r"\(([^)]*)\)|(\S+)", self.pattern.split("->")[0])
        return tuple(math.prod(sizes[a] for a in (group or one).split()) for group, one in axes)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tensor:
    """A published tensor: its name (`{i}` where layers are numbered) and its parts, in order.

    Attributes:
        step: only every `step`-th layer of theirs has it: `{i}` is 0, step, 2 step, ...
    """

    name: str
    parts: tuple[Part, ...]
    step: int = 1


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
    ours: dict[str, np.ndarray] = {}
    for entry in tensors:
        for number, name in enumerate(numbered(entry, shapes)):
            value = read(name)
            for place, part in enumerate(entry.parts):
                fill = ours.setdefault(part.path, np.empty(shapes[part.path], value.dtype))
                fill = fill[number] if "{i}" in entry.name else fill
                rows = value[rows_of(entry, place, shapes)] if len(entry.parts) > 1 else value
                fill[part.cut(fill.shape)] = arrange(part, rows, fill.shape)
    return ours


def to_theirs(tensors: Sequence[Tensor], params: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Published tensors from our parameters."""
    return {name: value for entry in tensors for name, value in entry_to_theirs(entry, params)}


def entry_to_theirs(
    entry: Tensor, params: Mapping[str, np.ndarray]
) -> Iterator[tuple[str, np.ndarray]]:
    """The published tensors of one entry, layer by layer."""
    shapes = {part.path: tuple(params[part.path].shape) for part in entry.parts}
    for number, name in enumerate(numbered(entry, shapes)):
        rows = []
        for part in entry.parts:
            value = params[part.path][number] if "{i}" in entry.name else params[part.path]
            value = np.asarray(value)[part.cut(value.shape)]
            left, right = part.pattern.split("->")
            rows.append(rearrange(value, f"{right} -> {left}"))
        yield name, rows[0] if len(rows) == 1 else np.concatenate(rows)


def numbered(entry: Tensor, shapes: Shapes) -> list[str]:
    """The names an entry stands for: one, or one for each stacked layer."""
    if "{i}" not in entry.name:
        return [entry.name]
    count = shapes[entry.parts[0].path][0]
    return [entry.name.format(i=i * entry.step) for i in range(count)]


def rows_of(entry: Tensor, place: int, shapes: Shapes) -> slice:
    """The rows of a published tensor that its part number `place` has."""
    counts = [part.theirs(own_shape(entry, part, shapes))[0] for part in entry.parts]
    start = sum(counts[:place])
    return slice(start, start + counts[place])


def published_shape(entry: Tensor, shapes: Shapes) -> tuple[int, ...]:
    """Shape of a published tensor, from the shapes of ours."""
    found = [part.theirs(own_shape(entry, part, shapes)) for part in entry.parts]
    return (sum(shape[0] for shape in found), *found[0][1:]) if len(found) > 1 else found[0]


def own_shape(entry: Tensor, part: Part, shapes: Shapes) -> tuple[int, ...]:
    """Shape of ours for one layer."""
    return tuple(shapes[part.path][1:] if "{i}" in entry.name else shapes[part.path])


def arrange(part: Part, rows: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """A part's rows as ours has them, a view where possible.

    Args:
        part: the part. rows: its own. shape: of ours without the layer axis.
    """
    return rearrange(rows, part.pattern, **part.sizes(shape))
