"""What collectives put on the wires: bytes that every chip sends, by kind and by mesh axis.

Bytes are those of ring algorithms, in which a chip sends (g - 1) / g of what a group of g gathers
or scatters, and twice that for a full reduction.
"""

import dataclasses
import math
import re
from collections.abc import Mapping

import numpy as np

from tgvlm_jax.plan.hlo import Computation, Instruction, Shape

KINDS = (
    "all-gather",
    "reduce-scatter",
    "all-reduce",
    "all-to-all",
    "ragged-all-to-all",
    "collective-permute",
    "collective-broadcast",
)
_IOTA = re.compile(
    r"(?:replica_groups|source_target_pairs)=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?"
)
_LIST = re.compile(r"(?:replica_groups|source_target_pairs)=\{((?:\{[\d,]*\},?)+)\}")
_NAMED = re.compile(r"replica_groups=mesh\[([^\]]*)\]([^{]*)\{([^}]*)\}")
_IOTA_IDS = re.compile(r"\[([\d,]+)\](?:T\(([\d,]+)\))?")
_TRANSFERS = {  # of slices, through their hosts
    "ALL_REDUCE": "all-reduce",
    "ALL_GATHER": "all-gather",
    "REDUCE_SCATTER": "reduce-scatter",
    "ALL_TO_ALL": "all-to-all",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Collective:
    """One collective.

    Attributes:
        kind: one of `KINDS`. axes: of the mesh, along which it goes, joined by "+"; "" if unknown.
        group: chips that take part together. bytes: that each chip sends. channel: what the
            compiler's copies of it share; "" if it has none.
    """

    kind: str
    axes: str
    group: int
    bytes: float
    channel: str


def read(
    at: Computation, one: Instruction, *, mesh: Mapping[str, int], partitions: int
) -> Collective | None:
    """The collective that an instruction begins, if it does.

    Args:
        at: where the instruction stands.
        mesh: sizes by axis, in order; the first is that of slices.
        partitions: of the program, which a compiler for several slices makes for one of them.
    """
    sizes = dict(mesh)
    slices = next(iter(sizes))
    if one.op == "send":
        return _between_slices(at, one, axis=slices, count=sizes[slices])
    kind = one.op.removesuffix("-start")
    if kind not in KINDS:
        return None
    if partitions * sizes[slices] == math.prod(sizes.values()):
        sizes[slices] = 1
    sent = sum(_operands(at, one))
    permutes = kind == "collective-permute"
    if permutes and (cut := re.search(r"slice_sizes=\{\{([\d,]+)\}", one.attributes)):
        whole = at.operand(one, 0)
        each = whole.shapes[0] if whole is not None else Shape("u8", ())
        sent = Shape(each.kind, tuple(map(int, cut[1].split(",")))).bytes
    elif permutes:
        sent = _operands(at, one)[0]
    group = _group(one, sizes)
    if kind == "all-reduce" and at.name.startswith("all-reduce-scatter"):
        kind = "reduce-scatter"  # a fusion that keeps a part of the sum
    channel = one.number("channel_id")
    return Collective(
        kind=kind,
        axes=group.axes,
        group=group.size,
        bytes=_sent(kind, sent, group.size),
        channel="" if channel is None or permutes else f"{channel}:{sent:g}",
    )


def _sent(kind: str, size: float, group: int) -> float:
    """Bytes that a chip sends when it brings `size`."""
    match kind:
        case "all-gather":
            return size * (group - 1)
        case "all-reduce":
            return 2 * size * (group - 1) / group
        case "collective-permute" | "collective-broadcast":
            return size
    return size * (group - 1) / group


def _between_slices(
    at: Computation, one: Instruction, *, axis: str, count: int
) -> Collective | None:
    transfer = one.text("_xla_megascale_transfer_type")
    if transfer is None:
        return None
    kind = _TRANSFERS.get(transfer, "collective-permute")
    size = _operands(at, one)[0]
    return Collective(kind=kind, axes=axis, group=count, bytes=_sent(kind, size, count), channel="")


def _operands(at: Computation, one: Instruction) -> list[float]:
    """Bytes of each operand."""
    found = [at.by_name[name] for name in one.operands if name in at.by_name]
    return [sum(shape.bytes for shape in operand.shapes) for operand in found] or [0.0]


@dataclasses.dataclass(frozen=True)
class _Group:
    axes: str
    size: int


def _group(one: Instruction, mesh: Mapping[str, int]) -> _Group:
    """The mesh axes along which the chips of a group differ."""
    members = _members(one)
    total = math.prod(mesh.values())
    if members is None:
        axes = [name for name, size in mesh.items() if size > 1]
        return _Group("+".join(axes), total)
    if not len(members) or members.max() >= total:
        return _Group("", max(len(members), 1))
    places = np.stack(np.unravel_index(members, tuple(mesh.values())))
    varies = [len(set(row.tolist())) > 1 for row in places]
    return _Group("+".join(name for name, v in zip(mesh, varies, strict=True) if v), len(members))


def _members(one: Instruction) -> np.ndarray | None:
    """Numbers of the partitions of one group: of a permutation, a pair that differs."""
    if found := _NAMED.search(one.attributes):
        return _named_members(found[1], found[2], found[3])
    if found := _IOTA.search(one.attributes):
        groups, sizes = _numbers(found[1]), _numbers(found[2])
        order = _numbers(found[3]) or tuple(range(len(sizes)))
        return np.arange(math.prod(sizes)).reshape(sizes).transpose(order).reshape(groups)[0]
    if found := _LIST.search(one.attributes):
        rows = [
            np.array([int(x) for x in row.split(",") if x])
            for row in re.findall(r"\{([\d,]*)\}", found[1])
        ]
        return max(rows, key=lambda row: len(set(row.tolist())))
    return None


def _named_members(axes: str, ids: str, along: str) -> np.ndarray:
    """The first group along some axes of the compiler's own mesh, or along parts of them.

    `'x':(2)4` is the part of `x` that is 4 long behind one that is 2 long.
    """
    sizes = {name: int(size) for name, size in re.findall(r"'(\w+)'=(\d+)", axes)}
    cuts = re.findall(r"'(\w+)'(?::\((\d+)\)(\d+))?", along)
    shape, kept = [], []
    for name, size in sizes.items():
        parts = sorted((int(before or 1), int(own or size)) for n, before, own in cuts if n == name)
        done = 1
        for before, own in parts:
            shape += [before // done, own]
            kept += [False, True]
            done = before * own
        shape.append(size // done)
        kept.append(False)
    members = np.arange(math.prod(sizes.values()))
    if found := _IOTA_IDS.search(ids):
        dims = _numbers(found[1])
        order = _numbers(found[2]) or tuple(range(len(dims)))
        members = members.reshape(dims).transpose(order).reshape(-1)
    first = tuple(slice(None) if keep else 0 for keep in kept)
    return members.reshape(shape)[first].reshape(-1)


def _numbers(text: str | None) -> tuple[int, ...]:
    return tuple(int(one) for one in (text or "").split(",") if one)
