"""Bytes that an instruction moves between a chip and its main memory.

A fusion reads its parameters and writes its result once. Of an array that is only sliced or
gathered from, the part counts, and of one that is updated in place, the update.
"""

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
    if one.op.endswith("-start"):
        return _size(one)  # its type has what it reads, and what it writes
    operands = [at.by_name[name] for name in one.operands if name in at.by_name]
    return _size(one) + sum(_size(operand) for operand in operands)


def _size(one: Instruction) -> float:
    return sum(shape.bytes for shape in one.shapes if not shape.on_chip)


def _fusion(module: Module, at: Computation, one: Instruction) -> float:
    inner = module.computations[one.called("calls")[0]]
    users: dict[str, list[Instruction]] = {}
    for other in inner.instructions:
        for name in other.operands:
            users.setdefault(name, []).append(other)
    moved = 0.0
    for number, parameter in inner.parameters.items():
        given = at.operand(one, number)
        if given is not None and _size(given):
            moved += min(_read(inner, parameter, users), _size(given))
    return moved + _written(inner, one)


def _read(inner: Computation, one: Instruction, users: dict[str, list[Instruction]]) -> float:
    """Of a parameter: all of it, or what is cut out of it."""
    found = 0.0
    for user in users.get(one.name, []):
        if user.op in _SLICES and user.operands[0] == one.name:
            found += sum(shape.bytes for shape in user.shapes)
        elif user.op == "dynamic-update-slice" and user.operands[0] == one.name:
            continue
        elif user.op in _SAME and not user.root:
            found += _read(inner, user, users)
        else:
            return sum(shape.bytes for shape in one.shapes)
    return found


def _written(inner: Computation, one: Instruction) -> float:
    """Of the result: all of it, or what is put into it."""
    root = inner.root
    parts = [inner.by_name[name] for name in root.operands] if root.op == "tuple" else [root]
    found = 0.0
    for part, shape in zip(parts, one.shapes, strict=False):
        if shape.on_chip:
            continue
        source = part
        while source.op in _SAME and (before := inner.operand(source, 0)) is not None:
            source = before
        update = inner.operand(source, 1) if source.op == "dynamic-update-slice" else None
        shapes = (shape,) if update is None else update.shapes
        found += sum(each.bytes for each in shapes)
    return found
