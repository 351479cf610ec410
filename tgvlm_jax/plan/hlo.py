"""Optimised HLO, read from its text: computations, their instructions, shapes and loops.

The text is what the compiler itself prints (`compiled.as_text()`, or a dump), scheduled and with
layouts. Only what costs are counted from is kept.
"""

import dataclasses
import functools
import math
import re

_ITEM = {
    **dict.fromkeys(("pred", "s8", "u8"), 1.0),
    **dict.fromkeys(("s4", "u4", "f4e2m1fn"), 0.5),
    **dict.fromkeys(("s2", "u2"), 0.25),
    **dict.fromkeys(("s16", "u16", "bf16", "f16"), 2.0),
    **dict.fromkeys(("s32", "u32", "f32"), 4.0),
    **dict.fromkeys(("s64", "u64", "f64", "c64"), 8.0),
    "c128": 16.0,
}
_SHAPE = re.compile(r"\b(pred|token|opaque|[a-z]+\d+\w*)\[([\d,<=]*)\](?:\{([^}]*)\})?")
_COMPUTATION = re.compile(r"(ENTRY )?%?([\w.\-]+) \(.*\{\s*$")
_INSTRUCTION = re.compile(r"\s+(ROOT )?%?([\w.\-]+) = (.*)$")
_OUTSIDE = re.compile(r"S\((?!0\))\d+\)")  # 0 is HBM


@dataclasses.dataclass(frozen=True)
class Shape:
    """An array. `outside`: in another memory than HBM, on the chip (VMEM, SMEM) or the host's."""

    kind: str
    sizes: tuple[int, ...]
    outside: bool = False

    @property
    def bytes(self) -> float:
        """Without the padding of its tiles."""
        # Types of 8 bits have many names (f8e4m3fn, ...); a token has no size.
        each = _ITEM.get(self.kind, 1.0 if self.kind.startswith("f8") else 0.0)
        return each * math.prod(self.sizes)


@dataclasses.dataclass(frozen=True, eq=False)
class Instruction:
    """One line: `%name = type op(operands), attributes`."""

    name: str
    type: str
    op: str
    operands: tuple[str, ...]
    inside: str
    attributes: str
    root: bool

    @functools.cached_property
    def shapes(self) -> tuple[Shape, ...]:
        """Of its result; several for a tuple."""
        return _shapes(self.type)

    def called(self, *keys: str) -> list[str]:
        """Names of the computations that these attributes name."""
        found = []
        for key in keys:
            for one in re.finditer(rf"\b{key}=(?:\{{([^}}]*)\}}|%?([\w.\-]+))", self.attributes):
                found += re.findall(r"[\w.\-]+", one[1]) if one[1] else [one[2]]
        return found

    def text(self, key: str) -> str | None:
        """The string that an attribute, or a field of one, has."""
        found = re.search(rf'\b{key}"?[=:] ?"([^"]*)"', self.attributes)
        return found[1] if found else None

    def number(self, key: str) -> int | None:
        """The whole number that an attribute, or a field of one, has."""
        found = re.search(rf'\b{key}"?[=:]\{{?"?n?"?:? ?"?(-?\d+)', self.attributes)
        return int(found[1]) if found else None


@dataclasses.dataclass(frozen=True, eq=False)
class Computation:
    """A block of instructions, in the order in which they run."""

    name: str
    instructions: tuple[Instruction, ...]

    @functools.cached_property
    def by_name(self) -> dict[str, Instruction]:
        """Its instructions by name."""
        return {one.name: one for one in self.instructions}

    @functools.cached_property
    def root(self) -> Instruction:
        """What it returns."""
        return next(one for one in self.instructions if one.root)

    @functools.cached_property
    def parameters(self) -> dict[int, Instruction]:
        """By their numbers."""
        return {int(one.inside): one for one in self.instructions if one.op == "parameter"}

    @functools.cached_property
    def users(self) -> dict[str, list[Instruction]]:
        """By a name, what takes it as an operand."""
        found: dict[str, list[Instruction]] = {}
        for one in self.instructions:
            for name in dict.fromkeys(one.operands):
                found.setdefault(name, []).append(one)
        return found

    def operand(self, one: Instruction, number: int) -> Instruction | None:
        """What an instruction takes there."""
        return self.by_name.get(one.operands[number]) if number < len(one.operands) else None


@dataclasses.dataclass(frozen=True, eq=False)
class Module:
    """A program: one for every partition, all the same."""

    computations: dict[str, Computation]
    entry: str
    partitions: int


def parse(text: str) -> Module:
    """Reads a module.

    Raises:
        ValueError: there is no entry computation in the text.
    """
    found: dict[str, Computation] = {}
    entry, name, lines = None, None, []
    for line in text.splitlines():
        if not line[:1].isspace():
            if name is not None:
                found[name] = Computation(name, tuple(lines))
            head = _COMPUTATION.match(line)
            name, lines = (head[2] if head else None), []
            entry = head[2] if head and head[1] else entry
        elif name is not None and (one := _instruction(line)) is not None:
            lines.append(one)
    if entry is None:
        raise ValueError("no entry computation: this is not the text of an HLO module")
    partitions = re.search(r"num_partitions=(\d+)", text[:100_000])
    return Module(found, entry, int(partitions[1]) if partitions else 1)


def _instruction(line: str) -> Instruction | None:
    found = _INSTRUCTION.match(line)
    if found is None:
        return None
    rest = found[3]
    kind = rest[: _closing(rest, 0) + 1] if rest.startswith("(") else rest.split(" ", 1)[0]
    called = re.match(r" ?([\w\-]+)\(", rest[len(kind) :])
    if called is None:
        return None
    begin = len(kind) + called.end()
    end = _closing(rest, begin - 1)
    inside = rest[begin:end]
    return Instruction(
        name=found[2],
        type=kind,
        op=called[1],
        operands=tuple(re.findall(r"%([\w.\-]+)", inside)),
        inside=inside,
        attributes=rest[end + 1 :],
        root=bool(found[1]),
    )


def _closing(text: str, start: int) -> int:
    """Where the bracket that opens at `start` closes."""
    depth = 0
    for place in re.finditer(r"[()]", text[start:]):
        depth += 1 if place[0] == "(" else -1
        if not depth:
            return start + place.start()
    return len(text) - 1


@functools.lru_cache(maxsize=100_000)
def _shapes(text: str) -> tuple[Shape, ...]:
    return tuple(
        Shape(
            kind=one[1],
            sizes=tuple(int(size.lstrip("<=")) for size in one[2].split(",") if size),
            outside=bool(_OUTSIDE.search(one[3] or "")),
        )
        for one in _SHAPE.finditer(text)
    )
