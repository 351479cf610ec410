"""What the E.T. Bench scripts read from an answer: spans, captioned events, one point in time.

The readers follow the published scripts bug for bug, because their quirks are part of every
published figure: "01:10 - 01:20" reads as (10, 1), a hyphenated "2-3 people" is a span, text before
the first time shifts all captions by one. `grounding.timecode` is the reader to use elsewhere.

E.T. Bench (arXiv 2409.18111), `compute_metrics.py`; D2VLM (arXiv 2512.24097) adds an answer in two
parts, evidence and answer, around a delimiter.
"""

import dataclasses
import re

from tgvlm_jax.evaluation.records import Span

DELIMITER = "</evi>"

# Digits, then periods, then digits: "12", "12.5", but also "12." and "12..5", which is no number.
_NUMBER = r"\d+\.*\d*"
_RANGE = re.compile(rf"({_NUMBER})\s*-\s*({_NUMBER})")
_TO = re.compile(rf"({_NUMBER})\s* to \s*({_NUMBER})")
_KEYWORDS = ("start", "end", "happen")
_ALONE = re.compile(r"\b(\d+(?:\.\d+)?)\b")
_POINT = re.compile(r"[+-]?(?:\d+(?:\.\d+)?|\.\d+)")

_START_LINE = re.compile(rf"start(?:ing)? time: ({_NUMBER})")
_END_LINE = re.compile(rf"end(?:ing)? time: ({_NUMBER})")
_START_COMMA = re.compile(rf"start time {_NUMBER}, end time {_NUMBER}")
_CLOCK = re.compile(rf"({_NUMBER}):({_NUMBER})")
_NOT_BEFORE_PERIOD = re.compile(rf"{_NUMBER}(?!\.)")
_RADIUS = 20  # seconds on either side of a single instant


class ScriptAborts(ValueError):
    """The published script stops with an error on this answer; the message is that error."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Grounded:
    """Spans of an answer in two parts; None where the part has none."""

    answer: list[Span] | None
    evidence: list[Span] | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Events:
    """Spans with their captions, of equal number.

    Attributes:
        evidence: spans of the evidence part, order inside a span kept; empty without such a part.
    """

    spans: list[Span]
    captions: list[str]
    evidence: list[Span]


def spans(text: str, *, trailing_periods: bool = False) -> list[Span] | None:
    """All spans of an answer, each in ascending order; None without any.

    The first form that is found anywhere wins: "a - b", "a to b", then one number out of each piece
    of text with "start", "end" or "happen", paired up.

    Args:
        text: the answer. trailing_periods: accept "12.. - 20", as the D2VLM scripts do.

    Raises:
        ScriptAborts: a number has periods in its middle.
    """
    text = text.lower()
    found = _RANGE.findall(text)
    if found:
        strip = "." if trailing_periods else ""
        return [_ordered(_float(a.rstrip(strip)), _float(b.rstrip(strip))) for a, b in found]
    found = _TO.findall(text) or _pairs_by_keyword(text)
    return [_ordered(_float(a), _float(b)) for a, b in found] or None


def _pairs_by_keyword(text: str) -> list[tuple[str, str]]:
    numbers = []
    for piece in re.split(r"[!?\n]", text):
        if any(word in piece for word in _KEYWORDS):
            numbers += _ALONE.findall(piece)[:1]
    return list(zip(numbers[::2], numbers[1::2], strict=False))


def grounded(text: str, delimiter: str = DELIMITER, *, trailing_periods: bool = True) -> Grounded:
    """Spans before the first and after the last delimiter (D2VLM); nothing without a delimiter.

    Evidence is read in the form "a - b" only and the order inside a span is kept.

    Raises:
        ScriptAborts: see `spans`; in the evidence even trailing periods are an error.
    """
    parts = text.lower().split(delimiter)
    if len(parts) < 2:
        return Grounded(answer=None, evidence=None)
    evidence = [(_float(a), _float(b)) for a, b in _RANGE.findall(parts[0])]
    answer = spans(parts[-1], trailing_periods=trailing_periods)
    return Grounded(answer=answer, evidence=evidence or None)


def point(text: str) -> float | None:
    """The first number of a raw answer, sign included ("top-5" is -5); None without any."""
    found = _POINT.search(text)
    return float(found[0]) if found else None


def events(text: str) -> Events | None:
    """Spans and captions of a dense-captioning answer; None where nothing can be read.

    Times first, then captions: whatever stands between two ranges is the caption of the first. When
    no event is left, the first line (or sentence) with a readable time is taken as the only one.
    """
    try:
        found, captions = _paragraph(text.lower())
    except ScriptAborts:
        return None
    return _finished(found, captions, text, evidence=[])


def grounded_events(text: str, delimiter: str = DELIMITER) -> Events | None:
    """`events` of the second part with the evidence of the first (D2VLM).

    When no event is left the whole text is searched for one, the evidence included.

    Raises:
        ScriptAborts: the answer has the form "start time a, end time b".
    """
    parts = re.sub(r"\.{2,}", " ", text.lower()).split(delimiter)
    if len(parts) < 2:
        return None
    found, captions = _paragraph(parts[1])
    evidence = [(_float(a), _float(b)) for a, b in _RANGE.findall(parts[0])]
    return _finished(found, captions, text, evidence=evidence)


def _finished(
    found: list[Span], captions: list[str], text: str, *, evidence: list[Span]
) -> Events | None:
    kept = [caption.strip().strip(", ").rstrip() for caption in captions if len(caption) > 5]
    count = min(len(found), len(kept))
    found, kept = found[:count], kept[:count]
    if not found:
        found, kept = _single_event(text)
    if not found:
        return None
    return Events(spans=[_ordered(*span) for span in found], captions=kept, evidence=evidence)


def _paragraph(text: str) -> tuple[list[Span], list[str]]:
    """Spans and the pieces of text that may be their captions, lower case."""
    ranges = list(_RANGE.finditer(text))
    if ranges:
        rest = text
        for hit in ranges:
            rest = rest.replace(hit[0], "\n")
        found = [(_float(hit[1]), _float(hit[2])) for hit in ranges]
        return found, rest.replace("seconds", "").split("\n")
    starts, ends = _START_LINE.findall(text), _END_LINE.findall(text)
    if starts and ends:
        found = [(_float(a), _float(b)) for a, b in zip(starts, ends, strict=False)]
        captions = re.findall(r"description: (.*)", text) or re.findall(r"\*\s*(.*)", text)
        return found, captions
    if _START_COMMA.search(text):
        raise ScriptAborts("not enough values to unpack (expected 3, got 2)")
    return [], []


def _single_event(text: str) -> tuple[list[Span], list[str]]:
    if "\n" in text:
        pieces = [line for line in text.split("\n") if len(line) > 7]
    else:
        pieces = [f"{sentence}." for sentence in text.split(".") if len(sentence) > 7]
    for piece in pieces:
        parts = [part.strip(",") for part in piece.split("seconds")]
        try:
            start, end = loose_span(parts[0])
        except ValueError:
            continue
        return [(round(start, 2), round(end, 2))], [parts[-1].strip()]
    return [], []


def loose_span(text: str) -> Span:
    """The span that a short text may mean: a range, one or two clock times, one or two numbers.

    Raises:
        ValueError: it means none, or has too many numbers to tell.
    """
    found = _RANGE.search(text)
    if found:
        return float(found[1]), float(found[2])
    times: list[float] = []
    if text.count(":") in (1, 2):
        times = [60 * int(a) + int(b) for a, b in _CLOCK.findall(text)]
        if len(times) != text.count(":"):
            raise ValueError(f"{text!r}: no clock times")
    times = times or [float(number) for number in _NOT_BEFORE_PERIOD.findall(text)]
    if len(times) == 1:
        (time,) = times
        return (time - _RADIUS, time + _RADIUS) if time > _RADIUS else (time, time + 2 * _RADIUS)
    if len(times) == 2:
        return times[0], times[1]
    raise ValueError(f"{text!r}: {len(times)} numbers are no span")


def _ordered(a: float, b: float) -> Span:
    return (a, b) if a <= b else (b, a)


def _float(text: str) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise ScriptAborts(str(error)) from error
