"""Small charts as SVG text: ticks, curves over steps, a distribution."""

import dataclasses
import math
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float64

from tgvlm_jax.report.page import escape

_WIDTH, _HEIGHT = 320, 140
_LEFT, _RIGHT, _TOP, _BOTTOM = 36, 46, 8, 20
_MOST_POINTS = 120

# A log has both, and a checker at run time does not take one for the other.
Number = int | float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Chart:
    """One number of the training log, drawn over steps.

    Attributes:
        key: its name in the metrics.
        title: what a reader should call it.
        unit: beside the title, e.g. "clips/s" or "% of the step"; empty for a plain number.
        scale: factor from the logged number to `unit`.
    """

    key: str
    title: str
    unit: str = ""
    scale: Number = 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Scale:
    """A straight map of [low, high] to the pixels [start, end]."""

    low: Number
    high: Number
    start: Number
    end: Number

    def __call__(self, value: Number) -> float:
        share = (value - self.low) / ((self.high - self.low) or 1.0)
        return self.start + share * (self.end - self.start)


def ticks(low: Number, high: Number, count: int) -> list[float]:
    """About `count` round values (1, 2, 2.5 or 5 times a power of ten) within [low, high]."""
    if not high > low:
        return [float(low)]
    step = _round_step((high - low) / max(count, 1))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(i * step, 12) for i in range(first, last + 1)]


def number(value: Number) -> str:
    """A number in three digits or so: 0.0123, 4.57, 123, 45.6k."""
    size = abs(value)
    if size >= 1e6:
        return f"{value / 1e6:.3g}M"
    if size >= 1e4:
        return f"{value / 1e3:.3g}k"
    if size >= 100 or value == int(value):
        return f"{value:.0f}"
    return f"{value:.3g}"


def line_chart(metrics: Sequence[Mapping[str, Number]], chart: Chart) -> str:
    """A figure of one metric over "step"; empty when fewer than two records have it.

    Long logs are drawn as the mean of equal stretches on top of the range they span. Values that
    are not finite cannot be drawn and are counted in the caption.
    """
    pairs = [
        (float(record["step"]), float(record[chart.key]) * chart.scale)
        for record in metrics
        if chart.key in record and "step" in record
    ]
    points = np.array([pair for pair in pairs if math.isfinite(pair[1])]).reshape(-1, 2)
    if len(points) < 2:
        return ""
    stretches = _stretches(points)
    marks = _enclosing(min(0.0, stretches[:, 2].min()), max(0.0, stretches[:, 3].max()))
    first, last = points[0, 0], points[-1, 0]
    right, bottom = _WIDTH - _RIGHT, _HEIGHT - _BOTTOM
    across = _Scale(low=first, high=last, start=_LEFT, end=right)
    up = _Scale(low=marks[0], high=marks[-1], start=bottom, end=_TOP)

    # The last step has its label; a round one must not run into it.
    steps = [(step, number(step)) for step in ticks(first, last, 3) if across(step) < right - 45]
    steps.append((last, f"step {number(last)}"))
    end = stretches[-1, 1]
    drawing = [
        _rules(marks, up, right=right),
        *(_below(across(step), text) for step, text in steps),
        *_curve(stretches, across, up),
        f'<circle class="dot" cx="{right}" cy="{up(end):.1f}" r="2.5"/>',
        f'<text class="strong" x="{right + 6}" y="{up(end) + 4:.1f}">{number(end)}</text>',
    ]
    small = [chart.unit] if chart.unit else []
    lost = len(pairs) - len(points)
    small += [f"{lost} values not finite"] if lost else []
    return _figure(chart.title, "".join(drawing), small=" · ".join(small))


def histogram(values: Sequence[float], *, title: str) -> str:
    """A figure of the distribution of numbers in [0, 1], in twenty columns, with their mean."""
    counts = np.histogram(np.asarray(values), bins=20, range=(0, 1))[0].tolist()
    right, bottom, head = _WIDTH - 8, _HEIGHT - _BOTTOM, _TOP + 12
    across = _Scale(low=0.0, high=1.0, start=_LEFT, end=right)
    up = _Scale(low=0.0, high=float(max(*counts, 1)), start=bottom, end=head)
    whole = [tick for tick in ticks(0, max(*counts, 1), 3) if tick == int(tick)]
    wide = across(0.05) - across(0.0)
    mean = float(np.mean(values))
    side, shift = ("end", -4) if mean > 0.5 else ("start", 4)
    drawing = [
        _rules(whole, up, right=right),
        *(
            f'<rect x="{across(i / 20) + 0.75:.2f}" y="{up(count):.1f}" rx="1" '
            f'width="{wide - 1.5:.2f}" height="{bottom - up(count):.1f}"/>'
            for i, count in enumerate(counts)
            if count
        ),
        *(_below(across(x), f"{x:g}") for x in (0, 0.25, 0.5, 0.75, 1)),
        f'<path class="mean" d="M{across(mean):.1f} {_TOP - 4}V{bottom}"/>',
        f'<text class="strong" x="{across(mean) + shift:.1f}" y="{_TOP + 4}" '
        f'text-anchor="{side}">mean {mean:.2f}</text>',
    ]
    return _figure(title, f'<g class="columns">{"".join(drawing)}</g>')


def _enclosing(low: float, high: float) -> list[float]:
    """Ticks that enclose [low, high], at least two."""
    if not high > low:
        high = low + 1.0
    step = _round_step((high - low) / 3)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(i * step, 12) for i in range(first, last + 1)]


def _round_step(least: float) -> float:
    power = 10.0 ** math.floor(math.log10(least))
    return power * next(m for m in (1, 2, 2.5, 5, 10) if m * power >= least * (1 - 1e-9))


def _stretches(points: Float64[np.ndarray, "points 2"]) -> Float64[np.ndarray, "stretches 4"]:
    """Rows of step, mean, least and most: a row a point, or for a long log a row a stretch."""
    if len(points) <= _MOST_POINTS:
        return points[:, [0, 1, 1, 1]]
    rows = [
        (part[:, 0].mean(), part[:, 1].mean(), part[:, 1].min(), part[:, 1].max())
        for part in np.array_split(points, _MOST_POINTS // 2)
    ]
    rows = np.array(rows)
    rows[0, 0], rows[-1, 0] = points[0, 0], points[-1, 0]
    return rows


def _curve(
    stretches: Float64[np.ndarray, "stretches 4"], across: _Scale, up: _Scale
) -> tuple[str, str]:
    """The range of each stretch, and the line of means on it."""

    def path(column: int, order: int = 1) -> str:
        rows = stretches[::order, [0, column]].tolist()
        return "L".join(f"{across(x):.1f} {up(y):.1f}" for x, y in rows)

    return (
        f'<path class="band" d="M{path(2)}L{path(3, -1)}Z"/>',
        f'<path class="curve" d="M{path(1)}"/>',
    )


def _rules(marks: Sequence[float], up: _Scale, *, right: int) -> str:
    return "".join(
        f'<path class="grid" d="M{_LEFT} {up(mark):.1f}H{right}"/>'
        f'<text x="{_LEFT - 6}" y="{up(mark) + 4:.1f}" text-anchor="end">{number(mark)}</text>'
        for mark in marks
    )


def _below(x: float, text: str) -> str:
    return f'<text x="{x:.1f}" y="{_HEIGHT - 4}" text-anchor="middle">{text}</text>'


def _figure(title: str, drawing: str, *, small: str = "") -> str:
    small = f" <small>{escape(small)}</small>" if small else ""
    return (
        f"<figure><figcaption>{escape(title)}{small}</figcaption>"
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(title)}">'
        f"{drawing}</svg></figure>"
    )
