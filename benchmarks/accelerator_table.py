"""Tables out of what benchmarks/accelerator.py has measured."""

import statistics
from collections.abc import Callable, Iterable
from typing import Any

_TITLES = {
    "product": "large products",
    "copy": "copy",
    "tower": "tower",
    "prefill": "prefill",
    "decode": "decode",
    "rollout": "GRPO rollout",
    "sft": "SFT step",
    "update": "GRPO update",
}
_INTRO = """\
Written by `python benchmarks/accelerator.py`. Milliseconds are medians (minima) of calls that both
sides make in turns, each in its own process; torch / ours above 1: ours is faster. The share of the
peak is the work that the model needs, the same for both sides, over the time it took and over the
most that either side reached in large products in the same run; of decoding it is the bytes of
weights and keys over the best copy. Decoding is the time of the tokens after the first. A rollout
and its update share a prompt among its answers on our side; transformers and TRL repeat it. Memory
is what XLA sets aside for a program, weights included, and the most that torch had allocated."""


def page(record: dict[str, Any]) -> str:
    """All systems that were measured on a device."""
    parts = ["# On one accelerator, beside transformers + torch", _INTRO]
    return "\n\n".join(parts + [_section(name, one) for name, one in record.items()]) + "\n"


def _section(name: str, section: dict[str, Any]) -> str:
    facts, layers = section["facts"], section["layers"]
    about = [f"{section['parameters'] / 1e6:,.0f} M parameters in the language model"]
    if layers[0] < layers[1]:
        about.append(f"{layers[0]} of its {layers[1]} layers, for want of memory")
    about.append(f"{facts['dtype']}; tower {section['tower']['kind']}")
    versions = ", ".join(f"{key} {value}" for key, value in facts["versions"].items())
    lines = [
        f"## {name} on {facts['device']}",
        "",
        f"- {'; '.join(about)}",
        f"- {facts['date']}; {facts['rounds']} rounds; load {facts.get('load', '?')}"
        + (f"; {facts['machine']}" if facts["machine"] else ""),
        f"- {versions}",
    ]
    if facts["torch"]:
        lines.append(f"- torch: {facts['torch']}")
    if (peak := best(section, "product", "flops")) is not None:
        lines.append(f"- peak of products: {peak / 1e12:.3g} TFLOP/s")
    if (peak := best(section, "copy", "bytes")) is not None:
        lines.append(f"- peak of a copy: {peak / 1e9:.3g} GB/s, read and written")
    heads = ["", "ours, ms", "torch, ms", "torch / ours", "of peak: ours", "torch", "compile, s"]
    heads += ["GiB: ours", "torch"]
    lines += ["", f"| {' | '.join(heads)} |", "| --- |" + " ---: |" * (len(heads) - 1)]
    for case in section["cases"]:
        lines.append(f"| {' | '.join(_cells(case, section))} |")
    return "\n".join(lines)


def _cells(case: str, section: dict[str, Any]) -> list[str]:
    row = section["cases"][case]
    ours, torch = row.get("ours", {}), row.get("torch", {})
    ratio = ""
    if "calls" in ours and "calls" in torch and min(median(ours), median(torch)) > 0:
        ratio = f"**{median(torch) / median(ours):.2f}**"
    compiling = f"{ours['compile']:.1f}" if "compile" in ours else ""
    if section["facts"]["cached"]:
        compiling = "cached"
    return [
        f"{_TITLES[case]} {_shape(case, section['lengths'])}",
        _times(ours),
        _times(torch),
        ratio,
        _share(case, section, ours),
        _share(case, section, torch),
        compiling,
        _gib(ours),
        _gib(torch),
    ]


def line(case: str, section: dict[str, Any]) -> str:
    """A row in short, to print while others are measured."""
    cells = _cells(case, section)
    return f"{cells[0]}: ours {cells[1] or '-'}, torch {cells[2] or '-'} ms {cells[3]}"


def _shape(case: str, lengths: dict[str, Any]) -> str:
    if case == "product":
        return f"of side {lengths['product']}, 8"
    if case == "copy":
        return f"of {lengths['copied']} MiB"
    if case == "tower":
        return f"on {lengths['clips']}"
    if case == "prefill":
        return "{} x {}".format(*lengths["prefill"])
    if case in ("rollout", "update"):
        return "{0} x {2} x ({1} + {3})".format(*lengths["rollout"])
    return "{} x ({} + {})".format(*lengths["train" if case == "sft" else "decode"])


def median(side: dict[str, Any]) -> float:
    """Seconds of a call, without those of the first token where they were measured, too."""
    return _over(side, statistics.median)


def _over(side: dict[str, Any], of: Callable[[Iterable[float]], float]) -> float:
    first = of([call.get("first", 0.0) for call in side["calls"]])
    return of([call["wall"] for call in side["calls"]]) - first


def _times(side: dict[str, Any]) -> str:
    if "error" in side:
        error = side["error"]
        memory = "RESOURCE_EXHAUSTED" in error or "out of memory" in error.lower()
        return "out of memory" if memory else "failed"
    if "calls" not in side:
        return ""
    if (least := _over(side, min)) <= 0 or median(side) <= 0:
        return "within noise"
    digits = 0 if least >= 0.1 else 1 if least >= 0.001 else 3
    return f"{1e3 * median(side):.{digits}f} ({1e3 * least:.{digits}f})"


def best(section: dict[str, Any], case: str, unit: str) -> float | None:
    """The most that either side reached, a second."""
    sides = section["cases"].get(case, {}).values()
    rates = [section[unit][case] / _over(side, min) for side in sides if "calls" in side]
    return max(rates, default=None)


def _share(case: str, section: dict[str, Any], side: dict[str, Any]) -> str:
    unit, of = ("bytes", "copy") if case in ("decode", "copy") else ("flops", "product")
    peak, work = best(section, of, unit), section[unit].get(case)
    if "calls" not in side or not peak or not work or median(side) <= 0:
        return ""
    return f"{100 * work / median(side) / peak:.0f} %"


def _gib(side: dict[str, Any]) -> str:
    return f"{side['memory'] / 2**30:.2f}" if "memory" in side else ""
