"""Write and read times in text, in every form the systems answer with.

`format_span` writes a span in one of the `STYLES`; `parse_spans` reads them all back without being
told which one it is. Scores that a benchmark publishes are read by that benchmark's own parser;
this one is ours and general.
"""

import dataclasses
import re
from collections.abc import Iterable
from typing import Literal, get_args

from tgvlm_jax.types import InputError

Style = Literal["dash", "seconds", "words", "clock", "minutes", "frames", "brackets"]
STYLES: tuple[Style, ...] = get_args(Style)

# How finely each style writes time, in seconds: a round trip is exact to half of it.
RESOLUTION: dict[Style, float] = {
    "dash": 0.1,
    "seconds": 0.1,
    "words": 0.1,
    "clock": 1.0,
    "minutes": 1.0,
    "frames": 1.0,
    "brackets": 0.01,
}

_CLOCK = r"\d+:[0-5]\d(?::[0-5]\d)?(?:\.\d+)?"
_UNIT = r"(?:\s*(?:seconds?|secs?|s)\b)?"
_TIME = rf"({_CLOCK}|\d+(?:\.\d+)?){_UNIT}"
_DASH = r"\-\u2010-\u2015\u2212"  # hyphens, dashes of any length, the minus sign
_BETWEEN = rf"\s*(?:[{_DASH}~]|\bto\b|\band\b|\buntil\b)\s*"
# A digit, point, colon or dash right before or after would make the numbers part of something
# else: a date, a range of three, a version.
_BEFORE = rf"(?<![\w.:])(?<!\d[{_DASH}])"
_AFTER = rf"(?![\w:]|[.{_DASH}]\d)"
_SPAN = re.compile(
    rf"\[\s*{_TIME}\s*,\s*{_TIME}\s*\]|{_BEFORE}{_TIME}{_BETWEEN}{_TIME}{_AFTER}", re.IGNORECASE
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class SpanInText:
    """One span that a text names.

    Attributes:
        start, end: seconds, start <= end (the text may have them in the other order).
        first, last: the characters text[first:last] that say so.
    """

    start: float
    end: float
    first: int
    last: int


def find_spans(text: str) -> list[SpanInText]:
    """All spans in `text` with their places, from left to right.

    Reads numbers of seconds and clock times (mm:ss, hh:mm:ss, with decimals) joined by a dash, a
    tilde, "to", "until" or "and", with or without units, and pairs in square brackets. It cannot
    know that "2-3 people" is no time.
    """
    found = []
    for hit in _SPAN.finditer(text):
        start, end = (parse_time(part) for part in hit.groups() if part is not None)
        found.append(
            SpanInText(
                start=min(start, end), end=max(start, end), first=hit.start(), last=hit.end()
            )
        )
    return found


def parse_spans(text: str) -> list[tuple[float, float]]:
    """All spans in `text` as (start, end) seconds, from left to right; empty if it has none."""
    return [(span.start, span.end) for span in find_spans(text)]


def parse_time(text: str) -> float:
    """Seconds of one time without a unit: "75.5", "1:15.5" or "00:01:15.5"."""
    seconds = 0.0
    for part in text.split(":"):
        seconds = 60 * seconds + float(part)
    return seconds


def format_span(span: Iterable[float], style: Style) -> str:
    """One span, (start, end) in seconds, in the words of `style`.

    dash "12.3-45.6", seconds "12.3 - 45.6 seconds", words "from 3 to 9.5", clock
    "00:01:02 - 00:01:30", minutes "01:02 - 01:30", frames "3 - 9 " (whole seconds with the blank
    that follows them in D2VLM answers), brackets "[12.30, 45.60]". Negative times read as 0.

    Raises:
        InputError: `style` is none of `STYLES`.
    """
    start, end = (max(0.0, float(time)) for time in span)
    match style:
        case "dash":
            return f"{start:.1f}-{end:.1f}"
        case "seconds":
            return f"{start:.1f} - {end:.1f} seconds"
        case "words":
            return f"from {round(start, 1):.12g} to {round(end, 1):.12g}"
        case "clock":
            return f"{format_clock(start)} - {format_clock(end)}"
        case "minutes":
            return f"{format_clock(start, hours=False)} - {format_clock(end, hours=False)}"
        case "frames":
            return f"{round(start)} - {round(end)} "
        case "brackets":
            return f"[{start:.2f}, {end:.2f}]"
    raise InputError(f"no such time style: {style!r}; choose from {', '.join(STYLES)}")


def format_clock(seconds: float, *, hours: bool = True, decimals: int = 0) -> str:
    """hh:mm:ss, or mm:ss without `hours` (minutes then run past 59), rounded to `decimals`."""
    ticks = round(max(0.0, seconds) * 10**decimals)
    whole, part = divmod(ticks, 10**decimals)
    fraction = f".{part:0{decimals}d}" if decimals else ""
    minutes, second = divmod(whole, 60)
    if not hours:
        return f"{minutes:02d}:{second:02d}{fraction}"
    return f"{minutes // 60:02d}:{minutes % 60:02d}:{second:02d}{fraction}"
