"""How often the body of a loop runs, read from its condition, its start and its step.

The compiler's own analysis counts a body once. TPU programs do not say how often it runs, but
their loops count: `i < limit`, from a constant on, by a constant.
"""

import dataclasses

from tgvlm_jax.plan.hlo import Computation, Instruction, Module

_SAME = ("copy", "bitcast", "convert", "reshape", "copy-done", "optimization-barrier")


@dataclasses.dataclass(frozen=True)
class _Value:
    """A whole number, or (`field` of the loop's state) + number."""

    number: int
    field: int | None = None


def trips(module: Module, where: Computation, loop: Instruction) -> int | None:
    """How often the body of a `while` runs at most; None where it does not count."""
    known = loop.number("known_trip_count")
    if known is not None:
        return known
    (condition,), (body,) = loop.called("condition"), loop.called("body")
    test = _comparison(module, module.computations[condition])
    if test is None:
        return None
    left, right, direction = test
    if left.field is None and right.field is not None:
        left, right = right, left
        direction = {"GT": "LT", "GE": "LE", "LT": "GT", "LE": "GE"}.get(direction, direction)
    field = left.field
    if field is None:
        return None
    start = _initial(module, where, loop, field)
    limit = right.number
    if right.field is not None:
        other = _initial(module, where, loop, right.field)
        limit = None if other is None else other + right.number
    after = module.computations[body]
    step = _field(module, after, after.root, field)
    if start is None or limit is None or step is None or step.field != field or not step.number:
        return None
    first = start + left.number
    inclusive = 1 if direction in ("LE", "GE") else 0
    span = (limit - first) if step.number > 0 else (first - limit)
    return max(0, -(-(span + inclusive) // abs(step.number)))


def _comparison(module: Module, at: Computation) -> tuple[_Value, _Value, str] | None:
    """What the condition compares; of several that must all hold, the one with a constant."""
    waiting = [at.root]
    while waiting:
        one = waiting.pop(0)
        if one.op == "compare":
            sides = [_value(module, at, at.operand(one, number)) for number in (0, 1)]
            direction = one.attributes.partition("direction=")[2][:2]
            if sides[0] is not None and sides[1] is not None:
                return sides[0], sides[1], direction
        elif one.op == "fusion":
            inner = module.computations[one.called("calls")[0]]
            found = _comparison(module, inner)
            if found is not None:
                return _bound(module, at, one, found)
        elif one.op in ("and", *_SAME):
            waiting += [found for name in one.operands if (found := at.by_name.get(name))]
    return None


def _bound(
    module: Module, at: Computation, call: Instruction, test: tuple[_Value, _Value, str]
) -> tuple[_Value, _Value, str] | None:
    """A comparison inside a fusion, whose values are told by numbers of its parameters."""
    sides = []
    for side in test[:2]:
        if side.field is None:
            sides.append(side)
            continue
        given = _value(module, at, at.operand(call, side.field))
        if given is None:
            return None
        sides.append(_Value(given.number + side.number, given.field))
    return sides[0], sides[1], test[2]


def _value(module: Module, at: Computation, one: Instruction | None) -> _Value | None:
    """What an instruction is worth, as far as it is plain counting.

    A parameter of a fusion counts as a field of that number.
    """
    if one is None:
        return None
    if one.op == "constant":
        text = one.inside.strip()
        return _Value(int(text)) if text.lstrip("-").isdigit() else None
    if one.op == "parameter":
        return _Value(0, int(one.inside))
    if one.op == "get-tuple-element":
        source = at.operand(one, 0)
        number = one.number("index")
        if source is None or number is None:
            return None
        return _Value(0, number) if source.op == "parameter" else None
    if one.op in _SAME:
        return _value(module, at, at.operand(one, 0))
    if one.op in ("add", "subtract"):
        left, right = (_value(module, at, at.operand(one, number)) for number in (0, 1))
        if left is None or right is None or (right.field is not None and one.op == "subtract"):
            return None
        if left.field is not None and right.field is not None:
            return None
        sign = 1 if one.op == "add" else -1
        field = right.field if left.field is None else left.field
        return _Value(left.number + sign * right.number, field)
    if one.op == "fusion":
        inner = module.computations[one.called("calls")[0]]
        found = _value(module, inner, inner.root)
        if found is None or found.field is None:
            return found
        given = _value(module, at, at.operand(one, found.field))
        return None if given is None else _Value(given.number + found.number, given.field)
    return None


def _field(module: Module, at: Computation, state: Instruction, number: int) -> _Value | None:
    """A field of a tuple."""
    if state.op == "tuple":
        return _value(module, at, at.operand(state, number))
    return None


def _initial(module: Module, at: Computation, loop: Instruction, number: int) -> int | None:
    """What a field of a loop's state begins as."""
    state = at.operand(loop, 0)
    found = None if state is None else _field(module, at, state, number)
    return found.number if found is not None and found.field is None else None
