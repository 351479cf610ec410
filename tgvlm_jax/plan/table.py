"""A plan as a person reads it, and as JSON."""

import dataclasses
from typing import Any

from tgvlm_jax.plan import store
from tgvlm_jax.plan.cost import Cost
from tgvlm_jax.plan.plan import GIB, Plan, Step
from tgvlm_jax.plan.search import Found


def record(plan: Plan) -> dict[str, Any]:
    """JSON: everything in bytes, FLOPs and seconds of one chip."""
    told = {**_fields(plan), "sizes": dataclasses.asdict(plan.sizes)}
    told["steps"] = [
        {
            **_fields(step),
            "time": None if step.time is None else dataclasses.asdict(step.time),
            "found": store.to_json(step.found),
        }
        for step in plan.steps
    ]
    return {**told, "fits": plan.fits}


def _fields(of: Plan | Step) -> dict[str, Any]:
    return {field.name: getattr(of, field.name) for field in dataclasses.fields(of)}


def table(plan: Plan) -> str:
    """Aligned text."""
    mesh = ", ".join(f"{name}={size}" for name, size in plan.mesh.items() if size > 1)
    sizes = plan.sizes
    lines = [
        f"{plan.config} on {plan.topology}: {plan.chips} chips ({plan.kind})"
        + (f", {mesh}" if mesh else ""),
        f"  at most {sizes.frames} frames, {sizes.question} + {sizes.answer} tokens a sample; "
        + ", ".join(f"{name} {version}" for name, version in plan.versions.items()),
    ]
    for step in plan.steps:
        lines += ["", *_step(step, plan)]
    return "\n".join(lines)


def searched(found: Found, *, batch: int) -> str:
    """What a search has found, in a line."""
    if not found.micro:
        return "not even one sample a chip fits"
    setting = f"train.accumulate={found.accumulate}" if found.accumulate else "another batch"
    return (
        f"largest micro-batch: {found.micro} samples, {found.each} for each chip that has some "
        f"({setting} for data.batch_size={batch}; tried {', '.join(map(str, found.tried))} a chip)"
    )


def _step(step: Step, plan: Plan) -> list[str]:
    rows = [*step.held.items(), *((f"{name}, beside", size) for name, size in step.beside.items())]
    lines = [f"{step.name}: {step.about}"]
    lines += [_row(name, _size(size)) for name, size in rows]
    memory = step.found.memory
    if memory is not None:
        lines.append(_row("temporaries", _size(memory.temporaries)))
    room = f"of {plan.available / GIB:g} GiB  " if plan.available else ""
    verdict = "fits" if step.fits else "DOES NOT FIT"
    lines.append(_row("at its peak", _size(step.peak), f"{room}{verdict}"))
    if step.found.cost is not None:
        lines += _costs(step, step.found.cost)
    return lines


def _costs(step: Step, cost: Cost) -> list[str]:
    time = step.time
    peak = cost.flops / time.compute if time and time.compute else 1.0
    told = [_time(getattr(time, name)) if time else "" for name in ("compute", "memory")]
    lines = [
        _row("products", _flops(cost.flops), told[0]),
        _row("memory traffic", _size(cost.bytes), told[1]),
    ]
    for (kind, axes), size in sorted(cost.wire.items(), key=lambda item: -item[1]):
        name = f"{kind} over {axes or '?'}"
        lines.append(_row(name, _size(size), f"{cost.runs[kind, axes]:,.0f} times"))
    for name, kernel in cost.kernels.items():
        said = "says no FLOPs" if kernel.flops is None else _flops(kernel.flops)
        lines.append(_row(f"kernel {name}", said, f"{kernel.runs:,.0f} times"))
    if cost.uncounted:
        lines.append(_row("loops that do not count", str(len(cost.uncounted)), "taken once"))
    if time is not None:
        both = f"{_time(time.overlapped)} to {_time(time.serial)}"
        lines.append(_row("time at least", both, f"bound by {time.bound}"))
        if step.model_flops:
            least, most = (step.model_flops / peak / t for t in (time.serial, time.overlapped))
            lines.append(_row("MFU at most", f"{least:.0%} to {most:.0%}", "of the peak"))
        if time.compiler:
            lines.append(_row("compiler's estimate", _time(time.compiler), "without collectives"))
    if step.tokens and time is not None:
        lines.append(_row("a token", _time(time.overlapped / step.tokens)))
    return lines


def _row(name: str, figure: str, more: str = "") -> str:
    return f"  {name:<36}{figure:>18}  {more}".rstrip()


def _time(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 1 else f"{1e3 * seconds:.3g} ms"


def _size(size: float) -> str:
    return f"{size / GIB:.2f} GiB" if size >= 0.1 * GIB else f"{size / 2**20:.2f} MiB"


def _flops(flops: float) -> str:
    return f"{flops / 1e12:.2f} TFLOP" if flops >= 1e11 else f"{flops / 1e9:.3f} GFLOP"
