"""Bytes that an instruction moves between a chip and its main memory.

A fusion reads its parameters and writes its result once. Of an array that is only sliced or
gathered from, the part counts, and of one that is updated in place, the update. A collective that
goes on beside a product is part of the product's fusion; its arrays count where it begins.
"""

from tgvlm_jax.plan import collectives
from tgvlm_jax.plan.hlo import Computation, Instruction, Module

_FREE = (
    "parameter",
    "constant",
    "tuple",
    "get-tuple-element",
    "bitcast",
    "while",
    "conditional",
    "call",
    "after-all",
    "partition-id",
    "replica-id",
    "iota",
    "optimization-barrier",
    "add-dependency",
    "domain",
    "send-done",
    "recv-done",
)
_SLICES = ("dynamic-slice", "slice", "gather")
_SLICES_BEGUN = ("slice-start", "dynamic-slice-start", "dynamic-update-slice-start")
_SAME = ("bitcast", "copy", "convert", "reshape", "transpose")


def traffic(module: Module, at: Computation, one: Instruction) -> float:
    """Bytes read and written; nothing for what only names values, and for what a -start began."""
    if one.op in _FREE or one.op.endswith(("-done", "-update")):
        return 0.0
    if one.op == "fusion":
        return _fusion(module, at, one)
    if one.op in _SLICES:
        return 2 * _size(one)
    if one.op in ("dynamic-update-slice", "scatter"):
        update = at.operand(one, 1 if one.op == "dynamic-update-slice" else len(one.operands) - 1)
        return 0.0 if update is None else 2 * _size(update)
    if one.op in _SLICES_BEGUN:
        return _begun_slice(at, one)
    if one.op.endswith("-start"):
        return _size(one)  # its type has what it reads, and what it writes
    operands = [at.by_name[name] for name in one.operands if name in at.by_name]
    return _size(one) + sum(_size(operand) for operand in operands)


def _begun_slice(at: Computation, one: Instruction) -> float:
    """A slice on its way between two memories, the chip's or the host's: what of it HBM sees."""
    whole = at.operand(one, 0)
    part = at.operand(one, 1) if one.op == "dynamic-update-slice-start" else None
    shape = max(one.shapes[1:], key=lambda each: each.bytes) if part is None else part.shapes[0]
    sides = [shape, *(whole.shapes[:1] if whole is not None else ())]
    return shape.bytes * sum(not each.outside for each in sides)


def _size(one: Instruction) -> float:
    return sum(shape.bytes for shape in one.shapes if not shape.outside)


def _fusion(module: Module, at: Computation, one: Instruction) -> float:
    inner = _inside(module, one)
    moved = _written(module, inner, one)
    for number, parameter in inner.parameters.items():
        given = at.operand(one, number)
        if given is not None and _size(given):
            moved += min(_read(module, inner, parameter), _size(given))
    return moved


def _inside(module: Module, fusion: Instruction) -> Computation:
    return module.computations[fusion.called("calls")[0]]


def _read(module: Module, inner: Computation, one: Instruction) -> float:
    """Of a parameter: all of it, or what is cut out of it, in fusions within the fusion, too."""
    found, whole = 0.0, sum(shape.bytes for shape in one.shapes)
    for user in inner.users.get(one.name, []):
        in_place = user.op == "dynamic-update-slice" and user.operands[0] == one.name
        handed_on = user.op in collectives.KINDS or (user.op == "tuple" and user.root)
        if in_place or handed_on:
            continue
        if user.op in _SLICES and user.operands[0] == one.name:
            found += sum(shape.bytes for shape in user.shapes)
        elif user.op in _SAME and not user.root:
            found += _read(module, inner, user)
        elif user.op == "fusion":
            nested = _inside(module, user)
            places = [n for n, name in enumerate(user.operands) if name == one.name]
            found += sum(_read(module, nested, nested.parameters[n]) for n in places)
        else:
            return whole
    return min(found, whole)


def _written(module: Module, inner: Computation, one: Instruction) -> float:
    """Of the result: all of it, or what is put into it."""
    root = inner.root
    parts = [inner.by_name[name] for name in root.operands] if root.op == "tuple" else [root]
    found = 0.0
    for part, shape in zip(parts, one.shapes, strict=False):
        if shape.outside or part.op == "parameter" or part.op in collectives.KINDS:
            continue
        at, source = inner, part
        while source.op in _SAME or (source.op == "fusion" and len(source.shapes) == 1):
            if source.op == "fusion":
                at = _inside(module, source)
                source = at.root
            elif (before := at.operand(source, 0)) is not None:
                source = before
            else:
                break
        update = at.operand(source, 1) if source.op == "dynamic-update-slice" else None
        shapes = (shape,) if update is None else update.shapes
        found += sum(each.bytes for each in shapes)
    return found
